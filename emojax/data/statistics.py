"""What is fitted to the training split: feature scales and label counts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from emojax.types import MODALITIES, Conversation


@dataclasses.dataclass(frozen=True, eq=False)
class Statistics:
    """What is fitted to the training split, and to nothing else.

    Attributes:
      mean, deviation: f32[D_m] of each modality over the utterances where it is present.
      label_counts: i64[C].
    """

    mean: dict[str, np.ndarray]
    deviation: dict[str, np.ndarray]
    label_counts: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """As JSON values; fp32 survives the way to a decimal and back."""
        scales = {name: getattr(self, name) for name in ("mean", "deviation")}
        return {
            name: {m: x.tolist() for m, x in scale.items()} for name, scale in scales.items()
        } | {"label_counts": self.label_counts.tolist()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Statistics:
        """The inverse of `to_json`."""
        mean, deviation = (
            {m: np.array(x, np.float32) for m, x in content[name].items()}
            for name in ("mean", "deviation")
        )
        return cls(mean, deviation, np.array(content["label_counts"], np.int64))


def fit_statistics(
    conversations: Iterable[Conversation], widths: Sequence[int], classes: int
) -> Statistics:
    """One pass over the training conversations, in fp64.

    A feature that hardly varies keeps its scale: dividing by nothing would make its noise a
    signal.
    """
    mean, deviation, labels = _moments(conversations, widths, classes)
    return Statistics(
        {modality: m.astype(np.float32) for modality, m in mean.items()},
        {m: np.where(d > 0, d, 1).astype(np.float32) for m, d in deviation.items()},
        labels,
    )


def spread(conversations: Iterable[Conversation], widths: Sequence[int]) -> dict[str, np.ndarray]:
    """f64[D_m] of each modality: deviations of its features, 0 where one hardly varies."""
    return _moments(conversations, widths, 0)[1]


def _moments(
    conversations: Iterable[Conversation], widths: Sequence[int], classes: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Means and deviations of what is present, and how often each class occurs."""
    total = {m: np.zeros(w) for m, w in zip(MODALITIES, widths, strict=True)}
    square = {m: np.zeros_like(t) for m, t in total.items()}
    count = dict.fromkeys(MODALITIES, 0)
    labels = np.zeros(classes, np.int64)
    for conversation in conversations:
        for column, modality in enumerate(MODALITIES):
            there = conversation.present[:, column]
            x = getattr(conversation, modality)[there].astype(np.float64)
            total[modality] += x.sum(0)
            square[modality] += np.square(x).sum(0)
            count[modality] += int(there.sum())
        if classes:
            known = conversation.label[conversation.label >= 0]
            labels += np.bincount(known, minlength=classes)
    mean, deviation = {}, {}
    for modality in MODALITIES:
        n = max(count[modality], 1)
        m = mean[modality] = total[modality] / n
        found = np.sqrt(np.maximum(square[modality] / n - np.square(m), 0))
        deviation[modality] = np.where(found > 1e-6 * (1 + np.abs(m)), found, 0)
    return mean, deviation, labels
