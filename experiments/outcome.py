"""What a trained run comes to: its line in the store of results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config.corruption import parse_all
from emojax.errors import ConfigError
from emojax.evaluate.metrics import Scores, score
from emojax.train.evaluation import Evaluated, evaluate_run, predict_corrupted
from emojax.types import Prediction
from experiments.store import METRICS, Result, commit, decisions, dialogues

TOLD = (
    "config", "dataset", "corpus", "split_rule", "split_hashes", "batch_mates", "future",
    "flops_per_conversation", "peak_memory_mib", "lanes", "devices", "versions", "test_reads",
)  # fmt: skip
"""What a report's provenance says and an audit keeps."""


def result_of(folder: Path, variant: str, conditions: Collection[str] = ()) -> Result:
    """Evaluate a run whose training is finished.

    Args:
      conditions: corruptions of the test split to look at as well, see `Result.conditions`.

    Raises:
      ConfigError: its corpus has no test split.
    """
    found = evaluate_run(folder, report=False)
    test = found.splits.get("test")
    if test is None:
        raise ConfigError(f"{folder}: the corpus has no test split, and studies are about one")
    told = found.provenance
    classes = len(found.labels)
    scores = {split: score(predictions, classes) for split, predictions in found.splits.items()}
    spoilt = (
        predict_corrupted(folder, {each: parse_all(each.split()) for each in conditions})
        if conditions
        else {}
    )
    return Result(
        variant=variant, seed=told["seed"], config=told["config_hash"],
        corpus=told["split_hashes"]["test"]["content"], commit=commit(),
        scores={split: _scores(each) for split, each in scores.items()},
        seconds=told["wall_seconds"], parameters=told["parameters"], **dialogues(test),
        audit=audit(found, scores["test"]),
        history=[
            {name: record[name] for name in ("epoch", "validation", "test") if name in record}
            for record in found.history
        ],
        conditions={
            each: {"scores": _scores(score(said, classes)), "predicted": decisions(said)}
            for each, said in spoilt.items()
        },
        missing={each: _missing(said) for each, said in {"": test, **spoilt}.items()},
    )  # fmt: skip


def _scores(found: Scores) -> dict[str, float]:
    return {metric: getattr(found, metric) for metric in METRICS}


def _missing(predictions: Sequence[Prediction]) -> float:
    return 1 - float(np.concatenate([each.present for each in predictions]).mean())


def audit(found: Evaluated, test: Scores) -> dict[str, Any]:
    """What cards say of a run beside its scores.

    `TOLD`; `selection`, as in the report; `reliability`, the bins behind the calibration error:
    utterances (`count`), mean `confidence` and `accuracy` of each.
    """
    return {
        "selection": found.selection,
        **{name: found.provenance[name] for name in TOLD},
        "reliability": {
            "count": test.bin_count.tolist(),
            "confidence": test.bin_confidence.round(5).tolist(),
            "accuracy": test.bin_accuracy.round(5).tolist(),
        },
    }
