"""Every resample against scoring the same drawn dialogues one by one."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.evaluate.bootstrap import bootstrap, draw, paired_difference, resample
from emojax.evaluate.metrics import dialogue_statistics, score
from tests.evaluate.samples import predict, sample

SCALARS = ("accuracy", "weighted_f1", "macro_f1", "nll", "brier", "ece")
PER_CLASS = ("precision", "recall", "f1")


def naive(predictions, C, resamples, seed):
    """Scores of each resample, its dialogues copied as often as they were drawn."""
    labelled = [p for p in predictions if (p.label >= 0).any()]
    for drawn in draw(len(labelled), resamples, seed):
        copies = [
            dataclasses.replace(labelled[i], id=f"copy {place}") for place, i in enumerate(drawn)
        ]
        yield score(copies, C)


@pytest.fixture(scope="module")
def predictions():
    # Short dialogues, so that resamples miss classes, and one without any label.
    nobody = predict(np.full(3, -1), np.full((3, 4), 0.25), "nobody knows")
    return [*sample(9, lengths=(1, 6), seed=3), nobody]


def test_every_resample_equals_the_naive_loop(predictions):
    fast = resample(dialogue_statistics(predictions, 4), 40, seed=11)
    for r, slow in enumerate(naive(predictions, 4, 40, seed=11)):
        for name in (*SCALARS, *PER_CLASS):
            np.testing.assert_allclose(fast[name][r], getattr(slow, name), atol=1e-12)
        rows = slow.confusion.sum(1, keepdims=True)
        np.testing.assert_allclose(fast["confusion_rate"][r] * rows, slow.confusion, atol=1e-12)


def test_intervals_are_percentiles_of_the_naive_loop(predictions):
    intervals = bootstrap(predictions, 4, seed=5, resamples=60, level=0.9)
    slow = list(naive(predictions, 4, 60, seed=5))
    for name in (*SCALARS, *PER_CLASS):
        values = np.array([getattr(scores, name) for scores in slow])
        low, high = np.percentile(values, [5, 95], axis=0)
        np.testing.assert_allclose(intervals.low[name], low, atol=1e-12)
        np.testing.assert_allclose(intervals.high[name], high, atol=1e-12)


def test_the_seed_alone_decides(predictions):
    one, same, other = (bootstrap(predictions, 4, seed=s) for s in (1, 1, 2))
    for name in SCALARS:
        assert one.low[name] == same.low[name]
        assert one.high[name] == same.high[name]
    assert any(one.low[name] != other.low[name] for name in SCALARS)


def test_dialogues_are_drawn_whole():
    """Ten equal dialogues vary in no resample, however many utterances are wrong in each."""
    label = np.array([0, 1, 0, 1])
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    same = [predict(label, probability, f"d{i}") for i in range(10)]
    intervals = bootstrap(same, 2, seed=0, resamples=50)
    assert intervals.low["accuracy"] == intervals.high["accuracy"] == 0.75


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Accuracy of dialogues that are wholly right or wholly wrong, true rate 1/2."""
    right, wrong = np.tile([1.0, 0.0], (3, 1)), np.tile([0.0, 1.0], (3, 1))
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        dialogues = [
            predict(np.zeros(3), right if rng.random() < 0.5 else wrong, f"d{i}") for i in range(60)
        ]
        interval = bootstrap(dialogues, 2, seed=trial, resamples=400)
        covered += interval.low["accuracy"] <= 0.5 <= interval.high["accuracy"]
    # 190 expected; five standard deviations of a binomial are 15.
    assert 175 <= covered <= 200


def test_one_dialogue_has_no_interval():
    assert bootstrap(sample(1), 4, seed=0) is None


def test_a_thousand_resamples_of_meld_take_well_under_a_second():
    predictions = sample(280, C=7, lengths=(5, 14))
    start = time.process_time()
    bootstrap(predictions, 7, seed=0, resamples=1000)
    assert time.process_time() - start < 1.0


def test_a_paired_difference_equals_the_naive_loop():
    first, second = sample(15, seed=1), sample(15, seed=1, skill=0.5)
    fast = paired_difference(first, second[::-1], 4, seed=7, resamples=50)
    one, two = (list(naive(p, 4, 50, seed=7)) for p in (first, second))
    for name in SCALARS:
        values = np.array(
            [getattr(a, name) - getattr(b, name) for a, b in zip(one, two, strict=True)]
        )
        low, high = np.percentile(values, [2.5, 97.5])
        assert fast[name].value == pytest.approx(
            getattr(score(first, 4), name) - getattr(score(second, 4), name), abs=1e-12
        )
        assert fast[name].low == pytest.approx(low, abs=1e-12)
        assert fast[name].high == pytest.approx(high, abs=1e-12)
        assert fast[name].share_positive == ((values > 0) + 0.5 * (values == 0)).mean()


def test_a_system_does_not_differ_from_itself():
    predictions = sample(8)
    for difference in paired_difference(predictions, predictions, 4, seed=0).values():
        assert not np.any(difference.low)
        assert not np.any(difference.high)
        assert np.all(difference.share_positive == 0.5)


def test_systems_on_different_dialogues_or_labels_are_refused():
    first = sample(5)
    with pytest.raises(DataError, match="only the first system") as error:
        paired_difference(first, first[1:], 4, seed=0)
    assert error.value.conversation == first[0].id
    with pytest.raises(DataError, match="only the second system"):
        paired_difference(first[1:], first, 4, seed=0)
    other = dataclasses.replace(first[0], label=(first[0].label + 1) % 4)
    with pytest.raises(DataError, match="different labels"):
        paired_difference(first, [other, *first[1:]], 4, seed=0)
    with pytest.raises(DataError, match="at least two"):
        paired_difference(first[:1], first[:1], 4, seed=0)
