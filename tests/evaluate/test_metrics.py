"""scikit-learn and loops over the definitions as oracles of every score."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics as oracle

from emojax.errors import DataError
from emojax.evaluate.metrics import BINS, SMALLEST, majority_scores, score
from tests.evaluate.samples import corpora, flatten, predict, sample

EXACT = 1e-12


# scikit-learn says so for C = 1 even where `labels` is given.
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@given(corpora())
@settings(deadline=None, max_examples=150)
def test_scores_equal_scikit_learn(corpus):
    predictions, C = corpus
    scores = score(predictions, C)
    truth, probability = flatten(predictions)
    guess = probability.argmax(-1)
    every = list(range(C))

    np.testing.assert_array_equal(
        scores.confusion, oracle.confusion_matrix(truth, guess, labels=every)
    )
    assert scores.accuracy == pytest.approx(oracle.accuracy_score(truth, guess), abs=EXACT)
    for average, value in (("weighted", scores.weighted_f1), ("macro", scores.macro_f1)):
        expected = oracle.f1_score(truth, guess, labels=every, average=average, zero_division=0)
        assert value == pytest.approx(expected, abs=EXACT)
    precision, recall, f1, support = oracle.precision_recall_fscore_support(
        truth, guess, labels=every, zero_division=0
    )
    np.testing.assert_allclose(scores.precision, precision, atol=EXACT)
    np.testing.assert_allclose(scores.recall, recall, atol=EXACT)
    np.testing.assert_allclose(scores.f1, f1, atol=EXACT)
    np.testing.assert_array_equal(scores.support, support)
    assert scores.utterances == len(truth)
    assert scores.dialogues == sum((p.label >= 0).any() for p in predictions)


@pytest.mark.parametrize("C", [2, 3, 7])
def test_log_loss_and_brier_score_equal_scikit_learn(C):
    predictions = sample(dialogues=30, C=C, seed=C)
    truth, probability = flatten(predictions)
    probability /= probability.sum(-1, keepdims=True)
    exact = [dataclasses.replace(p, probability=_normalised(p.probability)) for p in predictions]
    scores = score(exact, C)
    assert scores.nll == pytest.approx(
        oracle.log_loss(truth, probability, labels=range(C)), rel=1e-12
    )
    brier = oracle.brier_score_loss(
        truth, probability if C > 2 else probability[:, 1], labels=range(C), scale_by_half=False
    )
    assert scores.brier == pytest.approx(brier, rel=1e-12)


def _normalised(probability):
    exact = probability.astype(np.float64)
    return exact / exact.sum(-1, keepdims=True)


@given(corpora())
@settings(deadline=None, max_examples=150)
def test_calibration_equals_its_definition_in_a_loop(corpus):
    predictions, C = corpus
    scores = score(predictions, C)
    truth, probability = flatten(predictions)
    members: list[list[int]] = [[] for _ in range(BINS)]
    for index, row in enumerate(probability):
        inside = [b for b in range(BINS) if b / BINS < row.max() <= (b + 1) / BINS or b == BINS - 1]
        members[inside[0]].append(index)
    error = 0.0
    for b, inside in enumerate(members):
        assert scores.bin_count[b] == len(inside)
        if not inside:
            assert scores.bin_accuracy[b] == scores.bin_confidence[b] == 0
            continue
        right = np.mean([probability[i].argmax() == truth[i] for i in inside])
        sure = np.mean([probability[i].max() for i in inside])
        assert scores.bin_accuracy[b] == pytest.approx(right, abs=EXACT)
        assert scores.bin_confidence[b] == pytest.approx(sure, abs=1e-7)
        error += len(inside) / len(truth) * abs(right - sure)
    assert scores.ece == pytest.approx(error, abs=1e-7)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    edges = np.linspace(0, 1, BINS + 1)[8:]
    exact = np.stack([edges, 1 - edges], -1)
    prediction = dataclasses.replace(predict(np.zeros(len(edges)), exact), probability=exact)
    assert score([prediction], 2).bin_count.tolist() == [0] * 7 + [1] * 8


def test_a_certain_mistake_costs_a_finite_loss():
    scores = score([predict([0, 1], [[0.0, 1.0], [0.0, 1.0]])], 2)
    assert scores.nll == pytest.approx(-math.log(SMALLEST) / 2)
    assert scores.brier == pytest.approx(1.0)


def test_unlabelled_utterances_change_nothing():
    predictions = sample(unlabelled=0.4, seed=5)
    kept = [
        predict(p.label[p.label >= 0], p.probability[p.label >= 0], p.id)
        for p in predictions
        if (p.label >= 0).any()
    ]
    assert score(predictions, 4).to_dict() == score(kept, 4).to_dict()


@pytest.mark.parametrize("label", range(4))
def test_the_majority_baseline_equals_scikit_learn_on_a_constant_answer(label):
    predictions = sample(seed=2)
    truth, _ = flatten(predictions)
    guess = np.full_like(truth, label)
    baseline = majority_scores(score(predictions, 4), label)
    assert baseline["accuracy"] == pytest.approx(oracle.accuracy_score(truth, guess), abs=EXACT)
    for average in ("weighted", "macro"):
        expected = oracle.f1_score(truth, guess, labels=range(4), average=average, zero_division=0)
        assert baseline[f"{average}_f1"] == pytest.approx(expected, abs=EXACT)


def test_scores_survive_json():
    scores = score(sample(), 4)
    read = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert read["confusion"] == scores.confusion.tolist()
    assert read["weighted_f1"] == scores.weighted_f1


def test_one_class_alone_scores_one():
    scores = score([predict([0, 0, 0], np.ones((3, 1)))], 1)
    assert scores.accuracy == scores.macro_f1 == scores.weighted_f1 == 1
    assert scores.ece == scores.nll == scores.brier == 0


@pytest.mark.parametrize("predictions", [[], [predict([-1, -1], [[0.5, 0.5]] * 2)]])
def test_nothing_to_score_is_an_error(predictions):
    with pytest.raises(DataError, match="no labelled utterance"):
        score(predictions, 2)


def test_a_majority_label_that_does_not_exist_is_an_error():
    with pytest.raises(DataError, match="majority label 4 is outside"):
        majority_scores(score(sample(), 4), 4)
