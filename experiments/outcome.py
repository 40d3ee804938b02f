"""What a trained run comes to: its line in the store of results."""

from __future__ import annotations

from pathlib import Path

from emojax.errors import ConfigError
from emojax.evaluate.metrics import score
from emojax.train.evaluation import evaluate_run
from experiments.store import METRICS, Result, commit, dialogues


def result_of(folder: Path, variant: str) -> Result:
    """Evaluate a run whose training is finished.

    Raises:
      ConfigError: its corpus has no test split.
    """
    found = evaluate_run(folder)
    test = found.splits.get("test")
    if test is None:
        raise ConfigError(f"{folder}: the corpus has no test split, and studies are about one")
    told = found.provenance
    classes = len(found.labels)
    return Result(
        variant=variant, seed=told["seed"], config=told["config_hash"],
        corpus=told["split_hashes"]["test"]["content"], commit=commit(),
        scores={
            split: {m: score(predictions, classes).to_dict()[m] for m in METRICS}
            for split, predictions in found.splits.items()
        },
        seconds=told["wall_seconds"], parameters=told["parameters"], **dialogues(test),
    )  # fmt: skip
