"""Predictions for the tests of this room: drawn at random, or by hypothesis."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from emojax.types import Prediction

LABELS = ("happy", "sad", "neutral", "angry")
SPEAKERS = ("Ann", "Bob", "Cy")


def predict(
    label: np.ndarray, probability: np.ndarray, id: str = "d", seed: int = 0, S: int = 3
) -> Prediction:
    """A prediction of one conversation; modalities and speakers are drawn from `seed`."""
    rng = np.random.default_rng(seed)
    L = len(label)
    present = rng.random((L, 3)) > 0.2
    return Prediction(
        id=id,
        probability=np.asarray(probability, np.float32),
        contribution=np.where(present, rng.normal(0.3, 0.4, (L, 3)), 0).astype(np.float32),
        present=present,
        speaker=rng.integers(0, S, L).astype(np.int32),
        label=np.asarray(label, np.int32),
        transcript=tuple(f"Utterance {i}, you know." for i in range(L)),
    )


def sample(
    dialogues: int = 12,
    C: int = 4,
    seed: int = 0,
    lengths: tuple[int, int] = (3, 20),
    unlabelled: float = 0.1,
    skill: float = 1.5,
) -> list[Prediction]:
    """Conversations whose predictions are right more often than not."""
    rng = np.random.default_rng(seed)
    predictions = []
    for index in range(dialogues):
        L = int(rng.integers(*lengths, endpoint=True))
        label = rng.integers(0, C, L)
        logits = rng.normal(size=(L, C))
        logits[np.arange(L), label] += skill
        probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        label = np.where(rng.random(L) < unlabelled, -1, label)
        predictions.append(predict(label, probability, f"dialogue_{index:03d}", seed + index))
    return predictions


@st.composite
def corpora(draw: st.DrawFn, labelled: int = 1) -> tuple[list[Prediction], int]:
    """Predictions of 1 to 6 dialogues and C: absent classes, ties and unlabelled utterances."""
    C = draw(st.integers(1, 6))
    used = draw(st.lists(st.integers(0, C - 1), min_size=1, max_size=C, unique=True))
    dialogues = draw(st.integers(labelled, 6))
    predictions = []
    for index in range(dialogues):
        L = draw(st.integers(1, 8))
        choice = st.sampled_from([*used, -1])
        label = draw(st.lists(choice, min_size=L, max_size=L))
        if index < labelled:
            label[0] = used[0]
        # Small whole weights make ties and confidences on the edges of bins frequent.
        weight = np.array(
            draw(st.lists(st.integers(1, 15), min_size=L * C, max_size=L * C)), np.float64
        ).reshape(L, C)
        probability = weight / weight.sum(-1, keepdims=True)
        predictions.append(predict(np.array(label), probability, f"d{index}"))
    return predictions, C


def flatten(predictions: list[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """i64[n] labels and f64[n, C] probabilities of all labelled utterances."""
    label = np.concatenate([p.label for p in predictions])
    probability = np.concatenate([p.probability for p in predictions]).astype(np.float64)
    return label[label >= 0], probability[label >= 0]
