"""Predictions as files: JSON lines for programs, CSV for spreadsheets, both UTF-8.

A spreadsheet runs a cell that begins with `=`, `+`, `-` or `@` as a formula, and transcripts come
from strangers. In the CSV such text gets a leading apostrophe, which spreadsheets take as "this
is text". The JSON lines keep every text as it was.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.evaluate.decisions import check_predictions, decide
from emojax.files import write_atomically
from emojax.types import MODALITIES, Prediction

DECIMALS = 6
"""Decimals of every exported number: what fp32 probabilities carry."""

# Full-width forms and leading white space end up as formulas in some spreadsheets too.
FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def write_predictions(
    directory: Path | str,
    predictions: Sequence[Prediction],
    labels: Sequence[str],
    speakers: Sequence[str],
    stem: str = "predictions",
) -> tuple[Path, Path]:
    """Writes `<stem>.jsonl`, a conversation a line, and `<stem>.csv`, an utterance a row.

    Both name classes, speakers and modalities; utterances are numbered from 1. An unlabelled
    utterance has `label` null (CSV: empty), one that no modality argued for `modality` null, one
    without words `contradiction` null. The table has a column for contradictions whether they were
    measured or not, the lines a field only if they were.

    Returns:
      The two paths.

    Raises:
      DataError: bad predictions (see `check_predictions`), or files that cannot be written.
    """
    check_predictions(predictions, len(labels), len(speakers))
    directory = Path(directory)
    conversations = [(p.id, utterances(p, labels, speakers)) for p in predictions]
    lines = (
        json.dumps({"conversation": id, "utterances": entries}, ensure_ascii=False, allow_nan=False)
        + "\n"
        for id, entries in conversations
    )
    jsonl = write_atomically(directory / f"{stem}.jsonl", "".join(lines))

    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(
        ["conversation", "utterance", "speaker", "transcript", "label", "predicted", "confidence"]
        + ["modality"]
        + [_safe(f"probability {label}") for label in labels]
        + [f"contribution {name}" for name in MODALITIES]
        + ["contradiction"]
    )
    for id, entries in conversations:
        for entry in entries:
            texts = [entry[key] for key in ("speaker", "transcript", "label", "predicted")]
            writer.writerow(
                [_safe(id), entry["utterance"]]
                + [_safe(text) for text in texts]
                + [entry["confidence"], entry["modality"]]
                + list(entry["probabilities"].values())
                + list(entry["contributions"].values())
                + [entry.get("contradiction")]
            )
    return jsonl, write_atomically(directory / f"{stem}.csv", table.getvalue())


def utterances(
    prediction: Prediction, labels: Sequence[str], speakers: Sequence[str]
) -> list[dict[str, Any]]:
    """One plain mapping per utterance, everything by name, numbers to `DECIMALS` decimals."""
    decision = decide(prediction)
    confidence = decision.confidence.round(DECIMALS).tolist()
    probability = np.asarray(prediction.probability, np.float64).round(DECIMALS).tolist()
    contribution = np.asarray(prediction.contribution, np.float64).round(DECIMALS).tolist()
    weights = prediction.weights
    given = [] if weights is None else np.asarray(weights, np.float64).round(DECIMALS).tolist()
    measured = prediction.contradiction
    against = [] if measured is None else np.asarray(measured, np.float64).round(DECIMALS).tolist()
    return [
        {
            "utterance": index + 1,
            "speaker": speakers[prediction.speaker[index]],
            "transcript": prediction.transcript[index],
            "label": labels[prediction.label[index]] if decision.scored[index] else None,
            "predicted": labels[decision.predicted[index]],
            "confidence": confidence[index],
            "probabilities": dict(zip(labels, probability[index], strict=True)),
            "modality": MODALITIES[carried] if (carried := decision.modality[index]) >= 0 else None,
            "contributions": dict(zip(MODALITIES, contribution[index], strict=True)),
            "present": dict(zip(MODALITIES, map(bool, prediction.present[index]), strict=True)),
            **({"weights": dict(zip(MODALITIES, given[index], strict=True))} if given else {}),
            **({"contradiction": _known(against[index])} if against else {}),
        }
        for index in range(len(prediction.label))
    ]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _safe(text: str | None) -> str | None:
    return f"'{text}" if text and text.lstrip(" ").startswith(FORMULA_STARTS) else text
