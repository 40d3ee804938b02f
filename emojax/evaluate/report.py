"""The report of one run: `report.json` for programs, `report.md` and `report.html` for people.

This module gathers the numbers, `pages` sets them out for reading. Test scores come first where
there are any; the model was selected on validation either way.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import DataError
from emojax.evaluate import pages, plots
from emojax.evaluate.bootstrap import LEVEL, RESAMPLES, Intervals, bootstrap
from emojax.evaluate.decisions import check_predictions, pick_conversation
from emojax.evaluate.export import utterances
from emojax.evaluate.metrics import BINS, Scores, majority_scores, score
from emojax.evaluate.retrieval import Found
from emojax.evaluate.timeline import timeline
from emojax.files import write_atomically
from emojax.types import Prediction

SCHEMA_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Report:
    """All that a report is made of.

    Attributes:
      name: the title.
      labels, speakers: names; C labels, S speakers.
      validation: predictions of the selected model on the validation split.
      test: the same on the test split, or None where it was not read.
      history: one mapping per epoch: epoch, step, train_loss, validation {loss, accuracy,
        weighted_f1, macro_f1, nll}, learning_rate, seconds.
      selection: rule (a sentence), metric (a key of `validation`), epoch, step, value.
      provenance: seed, config, hashes, versions, devices, parameters, wall time, memory, ...
      batch_mates: what `invariance.batch_mates` found (conversations, largest, invariant), or None.
      future: what `invariance.future` found (conversations, largest, seen), or None.
      retrieval: how well modalities find one another in a shared space, on the split that comes
        first in the report, or None.
      reference: what can be reached at most, where it is known: bayes_accuracy,
        majority_accuracy, reached (share of the way between them), text, and contradiction
        (utterances, positives, roc_auc, bayes_roc_auc), or None where it was not measured.
      skipped: conversations set aside before training, with their reasons.
      majority_label: most frequent label of the training split; None leaves its baseline out.
      bootstrap_seed, resamples: of the intervals.
    """

    name: str
    labels: Sequence[str]
    speakers: Sequence[str]
    validation: Sequence[Prediction]
    test: Sequence[Prediction] | None
    history: Sequence[Mapping[str, Any]]
    selection: Mapping[str, Any]
    provenance: Mapping[str, Any]
    batch_mates: Mapping[str, Any] | None = None
    future: Mapping[str, Any] | None = None
    retrieval: Sequence[Found] | None = None
    reference: Mapping[str, Any] | None = None
    skipped: Sequence[str] = ()
    majority_label: int | None = None
    bootstrap_seed: int = 0
    resamples: int = RESAMPLES


def write_report(directory: Path | str, report: Report) -> dict[str, Path]:
    """Writes the report's files, each of them whole or not at all.

    Returns:
      The paths by name: `json`, `markdown`, `html`, and one per picture: `confusion_matrix`,
      `reliability_diagram`, `conversation`, and `learning_curves` where there is a history.

    Raises:
      DataError: no split or a split without a labelled utterance, bad predictions (see
        `check_predictions`), or files that cannot be written.
    """
    directory = Path(directory)
    scored = {
        split: _score(report, predictions)
        for split, predictions in (("test", report.test), ("validation", report.validation))
        if predictions
    }
    if not scored:
        raise DataError("there are no predictions to report on")
    main = next(iter(scored))
    shown = pick_conversation(report.test or report.validation)
    figures = _figures(report, scored[main][0], main, shown)
    content = _content(report, scored, main, shown)

    paths = {
        name: write_atomically(directory / "pictures" / f"{name}.png", plots.render(figure))
        for name, figure in figures.items()
    }
    document = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    svg = {name: plots.render(figure, "svg") for name, figure in figures.items()}
    page = pages.html(content, svg, utterances(shown, report.labels, report.speakers))
    files = {name: f"pictures/{name}.png" for name in figures}
    return {
        "json": write_atomically(directory / "report.json", document + "\n"),
        "markdown": write_atomically(directory / "report.md", pages.markdown(content, files)),
        "html": write_atomically(directory / "report.html", page),
        **paths,
    }


def _score(report: Report, predictions: Sequence[Prediction]) -> tuple[Scores, Intervals | None]:
    C = len(report.labels)
    check_predictions(predictions, C, len(report.speakers))
    intervals = bootstrap(predictions, C, seed=report.bootstrap_seed, resamples=report.resamples)
    return score(predictions, C), intervals


def _figures(report: Report, scores: Scores, split: str, shown: Prediction) -> dict[str, Any]:
    figures = {
        "confusion_matrix": plots.confusion_matrix(
            scores, report.labels, f"Confusion matrix ({split}), share of each true class"
        ),
        "reliability_diagram": plots.reliability_diagram(scores, f"Reliability ({split})"),
        "conversation": timeline(shown, report.labels, report.speakers),
    }
    if report.history:
        metric = report.selection.get("metric") or "weighted_f1"
        epoch = report.selection.get("epoch")
        figures["learning_curves"] = plots.learning_curves(report.history, metric, epoch)
    return figures


def _content(
    report: Report,
    scored: Mapping[str, tuple[Scores, Intervals | None]],
    main: str,
    shown: Prediction,
) -> dict[str, Any]:
    """What `report.json` holds: plain values only, nothing that is not finite."""
    return plain(
        {
            "schema_version": SCHEMA_VERSION,
            "name": report.name,
            "labels": list(report.labels),
            "speakers": len(report.speakers),
            "protocol": {
                "selection": dict(report.selection),
                "test_read": bool(report.test),
                "intervals": {
                    "method": "percentile bootstrap over dialogues",
                    "level": LEVEL,
                    "resamples": report.resamples,
                    "seed": report.bootstrap_seed,
                },
                "calibration_bins": BINS,
                "batch_mates": report.batch_mates,
                "future": report.future,
            },
            "splits": {
                split: _split(report, scores, intervals)
                for split, (scores, intervals) in scored.items()
            },
            "retrieval": report.retrieval,
            "reference": report.reference,
            "conversation": {"split": main, "id": shown.id},
            "history": list(report.history),
            "skipped": {"count": len(report.skipped), "items": list(report.skipped)},
            "provenance": report.provenance,
        }
    )


def _split(report: Report, scores: Scores, intervals: Intervals | None) -> dict[str, Any]:
    def measured(name: str, index: int | None = None) -> dict[str, Any]:
        def of(values: Mapping[str, np.ndarray] | None) -> float | None:
            if values is None:
                return None
            return float(values[name] if index is None else values[name][index])

        value = getattr(scores, name)
        return {
            "value": float(value if index is None else value[index]),
            "low": of(intervals.low if intervals else None),
            "high": of(intervals.high if intervals else None),
        }

    majority = None
    if report.majority_label is not None:
        baseline = majority_scores(scores, report.majority_label)
        majority = {"label": report.labels[report.majority_label], **baseline}
    return {
        "dialogues": scores.dialogues,
        "utterances": scores.utterances,
        **{name: measured(name) for name in pages.SCALARS},
        "classes": [
            {
                "label": label,
                "support": scores.support[index],
                **{name: measured(name, index) for name in pages.PER_CLASS},
            }
            for index, label in enumerate(report.labels)
        ],
        "confusion": {
            "rows": "true",
            "columns": "predicted",
            "counts": scores.confusion,
            "rate_low": intervals.low["confusion_rate"] if intervals else None,
            "rate_high": intervals.high["confusion_rate"] if intervals else None,
        },
        "calibration": {
            "count": scores.bin_count,
            "accuracy": scores.bin_accuracy,
            "confidence": scores.bin_confidence,
        },
        "majority": majority,
    }


def plain(value: Any) -> Any:
    """`value` in JSON's own types; numbers that are not finite become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        items = value if isinstance(value, (list, tuple)) else sorted(value, key=str)
        return [plain(item) for item in items]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):
        return plain(np.asarray(value).tolist())
    return str(value)
