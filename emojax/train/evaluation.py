"""From a trained run to its report: the one place that reads the test split."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from emojax import __version__
from emojax.config import MeshConfig, digest, to_dict
from emojax.config.corruption import Corruption
from emojax.config.shared_space import SharedSpaceConfig
from emojax.data.pipeline import smallest_batch
from emojax.data.posterior import Words, ceiling, words
from emojax.data.simulator import DEFAULT, simulate_with_sarcasm
from emojax.data.splits import content_hash
from emojax.dist.mesh import build_mesh, mesh_here
from emojax.dist.rules import tree_shardings
from emojax.errors import CheckpointError
from emojax.evaluate.contradiction import roc_auc
from emojax.evaluate.flops import per_conversation
from emojax.evaluate.invariance import batch_mates, future
from emojax.evaluate.metrics import score
from emojax.evaluate.predict import make_predict, predict_split
from emojax.evaluate.retrieval import find
from emojax.nn.sharding import named_axes
from emojax.train.checkpoint import Checkpoints
from emojax.train.reads import count_read, reads
from emojax.train.run import BEST, Run, open_run
from emojax.types import Prediction, Signature


def best_variables(
    folder: Path, model: nn.Module, signature: Signature, mesh: Mesh | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Variables of the epoch that validation chose, and that epoch's record.

    Args:
      folder: of the run; its corpus is not needed.
      model, signature: as the run built them.
      mesh: where the variables go; None is the first device.

    Raises:
      CheckpointError: the run has no complete checkpoint, or only damaged ones.
    """
    best = folder / BEST
    if not best.is_dir():
        raise CheckpointError(f"{folder}: nothing was trained to the end of an epoch yet")
    mesh = mesh or build_mesh(MeshConfig(), jax.devices()[:1])
    given = jax.random.key(0), smallest_batch(signature.widths)
    with named_axes():
        named = dict(jax.eval_shape(model.init, *given))
    like = jax.tree.map(
        lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
        nn.unbox(named), tree_shardings(mesh, named),
    )  # fmt: skip
    with contextlib.closing(Checkpoints(best, keep=None)) as series:
        found = series.restore(like)
    if found is None:
        raise CheckpointError(f"{folder}: nothing was trained to the end of an epoch yet")
    _, variables, notes = found
    return variables, notes["record"]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluated:
    """What was found of a run, and the report that says it.

    Attributes:
      paths: of the report's files, by name; none if it was not written.
      splits: predictions of the selected epoch, by split.
      labels: names of the classes.
      history: a record for every epoch, as training left it.
      selection, provenance: as in the report.
    """

    paths: dict[str, Path]
    splits: dict[str, list[Prediction]]
    labels: tuple[str, ...]
    history: list[dict[str, Any]]
    selection: dict[str, Any]
    provenance: dict[str, Any]


def evaluate_run(folder: Path, *, test: bool = True, report: bool = True) -> Evaluated:
    """What a run comes to, and a report of it under `folder/report`.

    The variables are those of the epoch that validation chose; only then is the test split read,
    and how often it was read is counted in `test_reads.json` and said in the report.

    Args:
      test: whether to read the test split.
      report: whether to write one, and to ask what of the modalities decided. All that takes
        several times longer than the numbers of a small run, and of hundreds nobody reads it.

    Raises:
      CheckpointError: nothing was trained yet.
      DataError: the corpus is damaged or not the one trained on.
    """
    run = open_run(folder)
    mesh = mesh_here(run.config.mesh, or_rows=True)
    variables, record = best_variables(folder, run.model, run.corpus.signature, mesh)
    predict = make_predict(run.model, explain=report, mesh=mesh)

    def predicted(split: str) -> list[Prediction]:
        return predict_split(predict, variables, run.batches(split, mesh=mesh), mesh=mesh)

    splits = {"validation": predicted("validation")}
    if test and len(run.corpus.ids("test")):
        count_read(folder, digest(run.config))
        splits["test"] = predicted("test")
    with contextlib.closing(Checkpoints(run.last, keep=None)) as series:
        progress = series.notes() or {}
    history = progress.get("history", [])
    held_out = run.batches("validation", mesh=mesh)
    mates = batch_mates(predict, variables, held_out, mesh)
    later = future(predict, variables, held_out, mesh)
    measured = {
        "batch_mates": None if mates is None else mates.to_dict(),
        "future": None if later is None else later.to_dict(),
    }
    selection = _selection(run, record)
    provenance = {**_provenance(run, variables, progress), **measured}
    paths: dict[str, Path] = {}
    if report:
        paths = _write(run, variables, mesh, splits, history, selection, provenance)
    return Evaluated(paths, splits, run.corpus.signature.labels, history, selection, provenance)


def _write(
    run: Run, variables: Any, mesh: Mesh | None, splits: Mapping[str, list[Prediction]],
    history: Sequence[dict[str, Any]], selection: dict[str, Any], provenance: dict[str, Any],
) -> dict[str, Path]:  # fmt: skip
    """The report's files; arguments as in `Evaluated`."""
    from emojax.evaluate.report import Report, write_report

    majority = int(run.corpus.statistics.label_counts.argmax())
    recalled = None
    if isinstance(run.config.model, SharedSpaceConfig):
        split = "test" if "test" in splits else "validation"
        recalled = find(run.model, variables, run.batches(split, mesh=mesh), mesh)
    report = Report(
        name=f"{run.config.model.name} on {run.corpus.signature.name}",
        labels=run.corpus.signature.labels,
        speakers=run.corpus.signature.speakers,
        validation=splits["validation"],
        test=splits.get("test"),
        history=[_from_one(each) for each in history],
        selection=selection,
        provenance=provenance,
        batch_mates=provenance["batch_mates"],
        future=provenance["future"],
        retrieval=recalled,
        reference=reference(run, splits.get("test"), majority),
        skipped=[str(error) for error in run.corpus.skipped],
        majority_label=majority,
    )  # fmt: skip
    return write_report(run.folder / "report", report)


def predict_corrupted(
    folder: Path, ways: Mapping[str, Sequence[Corruption]]
) -> dict[str, list[Prediction]]:
    """What the selected epoch says of the test split, corrupted in each of several ways.

    One more reading of the test split, and one program for all ways.

    Raises:
      CheckpointError, DataError: see `evaluate_run`.
    """
    run = open_run(folder)
    mesh = mesh_here(run.config.mesh, or_rows=True)
    variables, _ = best_variables(folder, run.model, run.corpus.signature, mesh)
    predict = make_predict(run.model, explain=False, mesh=mesh)
    count_read(folder, digest(run.config))
    return {
        name: predict_split(
            predict, variables, run.batches("test", mesh=mesh, corruptions=corruptions), mesh=mesh
        )
        for name, corruptions in ways.items()
    }


def _selection(run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
    metric = run.config.train.select
    return {
        "rule": "the last epoch, whatever validation says"
        if run.config.train.select_last
        else f"the epoch with the best validation {metric}; of equals the earliest",
        "metric": metric, "epoch": _from_one(record)["epoch"], "step": record["step"],
        "value": record["validation"][metric],
    }  # fmt: skip


def _provenance(run: Run, variables: Any, progress: Mapping[str, Any]) -> dict[str, Any]:
    signature = run.corpus.signature
    split = "test" if run.corpus.ids("test") else "validation"
    length = max(1, round(float(run.corpus.lengths(split).mean())))
    return {
        "seed": run.config.train.seed,
        "config": to_dict(run.config),
        "config_hash": digest(run.config),
        "split_rule": run.corpus.split_rule,
        "split_hashes": {split: dict(known) for split, known in run.corpus.hashes.items()},
        "dataset": signature.name,
        "corpus": run.corpus.layout,
        "versions": {
            "emojax": __version__, "python": platform.python_version(), "jax": jax.__version__,
            "flax": flax.__version__, "numpy": np.__version__,
        },
        "devices": [device.device_kind for device in jax.devices()],
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        "flops_per_conversation": {
            "split": split, "utterances": length,
            "flops": per_conversation(run.model, variables, signature.widths, length),
        },
        "wall_seconds": progress.get("seconds"),
        "peak_memory_mib": progress.get("peak_memory"),
        "lanes": progress.get("lanes", 1),
        "test_reads": len(reads(run.folder)),
    }  # fmt: skip


def _from_one(record: Mapping[str, Any]) -> dict[str, Any]:
    """An epoch's record as reports want it: counted from 1, with the loss that plots compare."""
    validation = record["validation"]
    return {
        **record,
        "epoch": record["epoch"] + 1,
        "validation": {**validation, "loss": validation["nll"]},
    }


def reference(run: Run, test: Sequence[Prediction] | None, majority: int) -> dict[str, Any] | None:
    """How much of the possible was reached, where it is known what is possible.

    That is so for the embedded corpus alone. Other simulated corpora come from another process,
    and a simulator that has changed since they were drawn is another process too, so the test
    conversations themselves are compared.
    """
    if run.corpus.signature.name != "simulated" or test is None:
        return None
    # Each split has its own random stream, so there is no need to draw the others.
    pairs = simulate_with_sarcasm(dataclasses.replace(DEFAULT, train=0, validation=0))["test"]
    drawn = [conversation for conversation, _ in pairs]
    if content_hash(drawn) != run.corpus.hashes["test"]["content"]:
        return None
    bayes = ceiling(drawn, DEFAULT)["bayes_accuracy"]
    labels = np.concatenate([c.label for c in drawn])
    floor = float((labels == majority).mean())
    accuracy = score(test, len(run.corpus.signature.labels)).accuracy
    return {
        "bayes_accuracy": bayes,
        "majority_accuracy": floor,
        "reached": (accuracy - floor) / (bayes - floor),
        "text": "Simulated conversations have a known ceiling, their exact posterior.",
        "contradiction": _contradiction(test, [c.id for c in drawn], words(pairs, DEFAULT)),
    }


def _contradiction(
    test: Sequence[Prediction], ids: Sequence[str], words: Words
) -> dict[str, Any] | None:
    """How well contradictions tell words of another emotion than the speaker's from those of her
    own; None where they were not measured. `words` are of the conversations of these ids."""
    measured = {p.id: p.contradiction for p in test if p.contradiction is not None}
    if not measured:
        return None
    found = np.concatenate([measured[id] for id in ids])
    score, exact, positive = (x[words.heard] for x in (found, words.exact, words.foreign))
    return {
        "utterances": len(positive), "positives": int(positive.sum()),
        "roc_auc": roc_auc(score, positive), "bayes_roc_auc": roc_auc(exact, positive),
    }  # fmt: skip
