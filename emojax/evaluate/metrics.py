"""Scores of predictions, built on sums per dialogue.

Every measure here is a function of a few sums over utterances: the confusion matrix, the summed
log loss, and per confidence bin how many utterances fell there, how many were right and how
sure the model was. Kept per dialogue, these sums make a bootstrap over dialogues one matrix
product (see `bootstrap`), and the point estimate the same function of the plain total.

Ratios 0/0 count as 0, as scikit-learn's `zero_division=0`: a class that never occurs and is
never predicted has precision, recall and F1 of 0 and lowers the macro F1, which is the mean over
all C classes of the label set (`labels=range(C)`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from emojax.errors import DataError
from emojax.evaluate.decisions import check_predictions, decide
from emojax.types import Prediction

BINS = 15
"""Equal-width bins of the confidence in the calibration error (Guo et al., 2017)."""

SMALLEST = float(np.finfo(np.float32).tiny)
"""Probabilities are floored here in the log loss: a certain mistake costs 87.3 nats, not ∞."""


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """Sums over utterances, for each of N dialogues (or, pooled, of each of R resamples).

    Attributes:
      confusion: f64[N, C, C] counts; row = true class, column = predicted class.
      nll: f64[N] summed −log p(true class), in nats.
      brier: f64[N] summed squared distance between probabilities and the one-hot truth.
      bin_count, bin_correct, bin_confidence: f64[N, BINS]; utterances, right ones, and summed
        confidences per bin (i/BINS, (i+1)/BINS] of the confidence.
    """

    confusion: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    bin_count: np.ndarray
    bin_correct: np.ndarray
    bin_confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.nll)

    def pool(self, weight: np.ndarray) -> Statistics:
        """Weighted sums over dialogues: f64[R, N] weights give statistics of R samples."""
        fields = dataclasses.fields(self)
        return Statistics(
            **{f.name: np.tensordot(weight, getattr(self, f.name), 1) for f in fields}
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """How good a set of predictions is; rates are fractions of 1.

    Attributes:
      dialogues, utterances: how many were scored (dialogues with a labelled utterance).
      accuracy, weighted_f1, macro_f1: over utterances.
      nll: mean −log p(true class), nats. brier: mean squared distance, in [0, 2].
      ece: expected calibration error over `BINS` bins of the confidence.
      precision, recall, f1: f64[C]. support: i64[C] utterances of each true class.
      confusion: i64[C, C]; row = true class, column = predicted class.
      bin_count: i64[BINS]. bin_accuracy, bin_confidence: f64[BINS], 0 in an empty bin.
    """

    dialogues: int
    utterances: int
    accuracy: float
    weighted_f1: float
    macro_f1: float
    nll: float
    brier: float
    ece: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    confusion: np.ndarray
    bin_count: np.ndarray
    bin_accuracy: np.ndarray
    bin_confidence: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists, fit for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}


def score(predictions: Sequence[Prediction], C: int) -> Scores:
    """Scores predictions over all labelled utterances.

    Raises:
      DataError: bad predictions (see `check_predictions`), or not one labelled utterance.
    """
    statistics = dialogue_statistics(predictions, C)
    return scores_of(statistics)


def dialogue_statistics(predictions: Sequence[Prediction], C: int) -> Statistics:
    """Sums per dialogue, for the N dialogues that have a labelled utterance, in their order.

    Dialogues without one are left out: they say nothing, and a bootstrap that drew them would
    only vary the size of its samples.

    Raises:
      DataError: bad predictions (see `check_predictions`), or not one labelled utterance.
    """
    check_predictions(predictions, C)
    decisions = [decide(prediction) for prediction in predictions]
    kept = [i for i, decision in enumerate(decisions) if decision.scored.any()]
    if not kept:
        raise DataError(
            "there is no labelled utterance to score",
            field="label",
            fix="Predictions can be exported without labels, scores need some",
        )

    def gather(field: str, source: Sequence[Any]) -> np.ndarray:
        return np.concatenate([np.asarray(getattr(source[i], field))[mask[i]] for i in kept])

    mask = [decision.scored for decision in decisions]
    truth = gather("label", predictions).astype(np.int64)
    probability = gather("probability", predictions).astype(np.float64)
    predicted = gather("predicted", decisions)
    confidence = gather("confidence", decisions)
    N = len(kept)
    dialogue = np.repeat(np.arange(N), [mask[i].sum() for i in kept])

    def total(weight: np.ndarray | None, cell: np.ndarray | int = 0, cells: int = 1) -> np.ndarray:
        counted = np.bincount(dialogue * cells + cell, weight, N * cells)
        return counted.astype(np.float64).reshape(N, cells)

    upper_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    bins = np.searchsorted(upper_edges, confidence, side="left")
    of_truth = probability[np.arange(len(truth)), truth]
    distance = (probability**2).sum(-1) - 2 * of_truth + 1
    return Statistics(
        confusion=total(None, truth * C + predicted, C * C).reshape(N, C, C),
        nll=total(-np.log(np.maximum(of_truth, SMALLEST)))[:, 0],
        brier=total(distance)[:, 0],
        bin_count=total(None, bins, BINS),
        bin_correct=total((truth == predicted).astype(np.float64), bins, BINS),
        bin_confidence=total(confidence, bins, BINS),
    )


def measures(statistics: Statistics) -> dict[str, np.ndarray]:
    """Every measure of every sample: f64[R], per class f64[R, C], per cell f64[R, C, C].

    `confusion_rate` is the confusion matrix divided by its row sums.
    """
    hit = np.diagonal(statistics.confusion, axis1=-2, axis2=-1)
    support = statistics.confusion.sum(-1)
    utterances = support.sum(-1)
    claimed = statistics.confusion.sum(-2)
    f1 = _ratio(2 * hit, support + claimed)
    gap = abs(statistics.bin_correct - statistics.bin_confidence)
    return {
        "accuracy": hit.sum(-1) / utterances,
        "weighted_f1": (f1 * support).sum(-1) / utterances,
        "macro_f1": f1.mean(-1),
        "nll": statistics.nll / utterances,
        "brier": statistics.brier / utterances,
        "ece": gap.sum(-1) / utterances,
        "precision": _ratio(hit, claimed),
        "recall": _ratio(hit, support),
        "f1": f1,
        "confusion_rate": _ratio(statistics.confusion, support[..., None]),
    }


def scores_of(statistics: Statistics) -> Scores:
    """The scores of all dialogues of `statistics` together."""
    whole = statistics.pool(np.ones((1, len(statistics))))
    value = {name: array[0] for name, array in measures(whole).items()}
    confusion = whole.confusion[0].astype(np.int64)
    count = whole.bin_count[0]
    scalars = ("accuracy", "weighted_f1", "macro_f1", "nll", "brier", "ece")
    return Scores(
        dialogues=len(statistics),
        utterances=int(confusion.sum()),
        **{name: float(value[name]) for name in scalars},
        precision=value["precision"],
        recall=value["recall"],
        f1=value["f1"],
        support=confusion.sum(-1),
        confusion=confusion,
        bin_count=count.astype(np.int64),
        bin_accuracy=_ratio(whole.bin_correct[0], count),
        bin_confidence=_ratio(whole.bin_confidence[0], count),
    )


def majority_scores(scores: Scores, label: int) -> dict[str, float]:
    """Accuracy, weighted and macro F1 of always answering `label` on the same utterances.

    Args:
      scores: of any predictions of these utterances; only their labels matter.
      label: the class always answered, usually the most frequent one in training.
    """
    C = len(scores.support)
    if not 0 <= label < C:
        raise DataError(f"the majority label {label} is outside 0..{C - 1}", field="label")
    accuracy = scores.support[label] / scores.utterances
    f1 = 2 * accuracy / (1 + accuracy)
    return {
        "accuracy": float(accuracy),
        "weighted_f1": float(accuracy * f1),
        "macro_f1": float(f1 / C),
    }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
