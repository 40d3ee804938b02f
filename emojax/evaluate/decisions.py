"""What a prediction decides, utterance by utterance, and the checks it passes before use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Prediction

SUM_TOLERANCE = 1e-2
"""How far a row of probabilities may be from 1: what a softmax rounded to bfloat16 can lose."""

SHORTEST = 8
"""Utterances a conversation needs to be worth a picture, where there is a choice."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decisions:
    """The decisions of one conversation of L utterances.

    Attributes:
      predicted: i64[L]; the most probable class, the first of equals.
      confidence: f64[L]; its probability, in [0, 1].
      scored: bool[L]; False where the utterance is unlabelled.
      correct: bool[L]; scored and predicted as labelled.
      modality: i64[L]; the present modality with the largest contribution to the decision,
        or -1 where no modality is present or none argues for it.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    scored: np.ndarray
    correct: np.ndarray
    modality: np.ndarray


def decide(prediction: Prediction) -> Decisions:
    """Reads the decisions off a conversation's probabilities and contributions."""
    probability = np.asarray(prediction.probability, np.float64)
    present = np.asarray(prediction.present, bool)
    label = np.asarray(prediction.label)
    predicted = probability.argmax(-1)
    scored = label != UNLABELLED
    contribution = np.where(present, np.asarray(prediction.contribution, np.float64), -np.inf)
    return Decisions(
        predicted=predicted,
        confidence=np.clip(probability.max(-1), 0.0, 1.0),
        scored=scored,
        correct=scored & (predicted == label),
        modality=np.where(contribution.max(-1) > 0, contribution.argmax(-1), -1),
    )


def pick_conversation(predictions: Sequence[Prediction]) -> Prediction:
    """The conversation to show: one of median accuracy, neither a triumph nor a wreck.

    Chosen among labelled conversations of at least `SHORTEST` utterances with at least one
    mistake; where there is none, conditions fall in the order mistake, length, labels. Depends on
    the set of predictions alone, not on their order.

    Raises:
      DataError: there are no predictions.
    """
    if not predictions:
        raise DataError("there is no conversation to show")

    def accuracy(prediction: Prediction) -> float:
        decision = decide(prediction)
        return decision.correct.sum() / max(decision.scored.sum(), 1)

    ranked = sorted(predictions, key=lambda prediction: (accuracy(prediction), prediction.id))
    labelled = [p for p in ranked if decide(p).scored.any()]
    long = [p for p in labelled if len(p.label) >= SHORTEST]
    mistaken = [p for p in long if accuracy(p) < 1]
    candidates = mistaken or long or labelled or ranked
    return candidates[(len(candidates) - 1) // 2]


def check_predictions(predictions: Sequence[Prediction], C: int, S: int | None = None) -> None:
    """Refuses predictions that cannot be scored or shown.

    Args:
      predictions: one per conversation.
      C: number of emotion classes.
      S: number of speakers; speakers are not checked when None.

    Raises:
      DataError: an id that occurs twice, a conversation without utterances, arrays whose shapes
        disagree, values that are not finite, rows that are no distribution, a contradiction outside
        0..1 or without words, a label outside 0..C-1 and not `UNLABELLED`, or a speaker outside
        0..S-1; names conversation and field.
    """
    seen: set[str] = set()
    for prediction in predictions:
        if prediction.id in seen:
            raise DataError("predicted twice", conversation=prediction.id, field="id")
        seen.add(prediction.id)
        _check(prediction, C, S)


def _check(prediction: Prediction, C: int, S: int | None) -> None:
    def refuse(field: str, problem: str) -> None:
        raise DataError(problem, conversation=prediction.id, field=field)

    L = len(prediction.label)
    if L == 0:
        refuse("label", "the conversation has no utterances")
    shapes = {
        "probability": (L, C),
        "contribution": (L, len(MODALITIES)),
        "present": (L, len(MODALITIES)),
        "speaker": (L,),
        "label": (L,),
        "transcript": (L,),
    }
    if prediction.weights is not None:
        shapes["weights"] = (L, len(MODALITIES))
    if prediction.contradiction is not None:
        shapes["contradiction"] = (L,)
    for field, shape in shapes.items():
        value = getattr(prediction, field)
        found = (len(value),) if field == "transcript" else np.shape(value)
        if found != shape:
            refuse(field, f"has shape {found}, expected {shape}")
    for field in ("probability", "contribution", "weights"):
        value = getattr(prediction, field)
        if value is not None and not np.isfinite(value).all():
            refuse(field, "holds values that are not finite")
    if prediction.contradiction is not None:
        heard = np.asarray(prediction.present, bool)[:, MODALITIES.index("text")]
        value = np.asarray(prediction.contradiction)
        # A comparison with NaN is false, so what is heard must have a value.
        if (
            not ((value[heard] >= 0) & (value[heard] <= 1)).all()
            or not np.isnan(value[~heard]).all()
        ):
            refuse(
                "contradiction", "must be in 0..1 where there is text and NaN where there is none"
            )
    probability = np.asarray(prediction.probability, np.float64)
    if (probability < 0).any() or (abs(probability.sum(-1) - 1) > SUM_TOLERANCE).any():
        refuse("probability", "a row is negative somewhere or does not sum to 1")
    label = np.asarray(prediction.label)
    if ((label >= C) | ((label < 0) & (label != UNLABELLED))).any():
        refuse("label", f"holds a label outside 0..{C - 1} that is not {UNLABELLED}")
    speaker = np.asarray(prediction.speaker)
    if S is not None and ((speaker < 0) | (speaker >= S)).any():
        refuse("speaker", f"holds a speaker outside 0..{S - 1}")
