"""Recall at k against a sort of every query's candidates, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics

from emojax.evaluate import retrieval as module
from emojax.evaluate.retrieval import retrieval
from emojax.types import MODALITIES

N, M, E, C = 40, 3, 6, 3


@pytest.fixture
def space(monkeypatch):
    """Embeddings near one another within an utterance, some of them missing."""
    monkeypatch.setattr(module, "_TOGETHER", 7)  # several blocks, the last one smaller
    draw = np.random.default_rng(0)
    embedding = draw.normal(size=(N, 1, E)) + draw.normal(size=(N, M, E))
    present = draw.random((N, M)) > 0.25
    return embedding.astype(np.float32), present, draw.integers(-1, C, N).astype(np.int32)


def test_recall_is_that_of_sorted_candidates(space):
    embedding, present, label = space
    pairs = {(each.query, each.answer): each for each in retrieval(embedding, present, label)}
    assert len(pairs) == M * (M - 1)
    for (query, answer), found in pairs.items():
        m, n = MODALITIES.index(query), MODALITIES.index(answer)
        there = np.flatnonzero(present[:, m] & present[:, n])
        scores = embedding[there, m].astype(np.float64) @ embedding[there, n].T
        nearest = np.argsort(-scores, axis=1)
        assert found.utterances == len(there)
        for k in (1, 5, 10):
            hits = [i in nearest[i, :k] for i in range(len(there))]
            assert found.recall[k] == pytest.approx(np.mean(hits))
            assert found.recall[k] == pytest.approx(
                sklearn.metrics.top_k_accuracy_score(
                    np.arange(len(there)), scores, k=k, labels=np.arange(len(there))
                )
            )
            assert found.chance[k] == pytest.approx(k / len(there))
            alike = [
                label[there[j]] == label[there[i]]
                for i in range(len(there))
                if label[there[i]] >= 0
                for j in [j for j in nearest[i] if j != i][:k]
            ]
            assert found.same_label[k] == pytest.approx(np.mean(alike))
        assert found.recall[1] > 2 * found.chance[1]


def test_who_is_like_everybody_is_found_by_chance():
    """Equal scores are no way to be first."""
    alike = np.ones((21, M, E), np.float32)
    for found in retrieval(alike, np.ones((21, M), bool), np.zeros(21, np.int32)):
        assert found.recall == {1: 0.0, 5: 0.0, 10: 0.0}  # the middle place, 10, is the eleventh
        assert found.same_label_chance == 1.0


def test_without_labels_nothing_is_said_of_them(space):
    embedding, present, _ = space
    for found in retrieval(embedding, present, np.full(N, -1)):
        assert found.same_label is None
        assert found.same_label_chance is None


def test_modalities_that_never_meet_are_left_out():
    present = np.zeros((4, M), bool)
    present[:2, 0] = present[2:, 1] = True
    assert retrieval(np.ones((4, M, E), np.float32), present, np.zeros(4, np.int32)) == []


def test_a_lone_utterance_finds_itself():
    (found, _) = retrieval(
        np.ones((1, M, E), np.float32), np.array([[True, True, False]]), np.zeros(1, np.int32)
    )
    assert found.recall == {1: 1.0, 5: 1.0, 10: 1.0}
    assert found.same_label is None
