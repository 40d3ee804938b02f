from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.evaluate.decisions import SHORTEST, check_predictions, decide, pick_conversation
from tests.evaluate.samples import predict, sample


def test_decisions_take_the_first_of_equals_and_only_present_modalities():
    prediction = dataclasses.replace(
        predict([1, 0, -1, 0], [[0.4, 0.4, 0.2], [0.1, 0.2, 0.7], [0, 0, 1], [1, 0, 0]]),
        contribution=np.array([[0.2, 0.9, 0.5], [0.6, -0.9, 0.1], [-1, -2, -3], [1, 1, 1]]),
        present=np.array([[1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]], bool),
    )
    decision = decide(prediction)
    assert decision.predicted.tolist() == [0, 2, 2, 0]
    assert decision.scored.tolist() == [True, True, False, True]
    assert decision.correct.tolist() == [False, False, False, True]
    # The absent audio may not carry the first, nobody argues for the third, nobody is there.
    assert decision.modality.tolist() == [2, 0, -1, -1]
    np.testing.assert_allclose(decision.confidence, [0.4, 0.7, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("probability", np.full((3, 4), 0.2)),
        ("probability", np.full((3, 3), 1 / 3)),
        ("probability", np.array([[0.5, 0.5, 0, np.nan]] * 3)),
        ("probability", np.array([[1.5, -0.5, 0, 0]] * 3)),
        ("contribution", np.full((3, 3), np.inf)),
        ("contribution", np.zeros((3, 2))),
        ("weights", np.ones((3, 2))),
        ("weights", np.full((3, 3), np.nan)),
        ("contradiction", np.array([[0.5, np.nan, 0.5]] * 3)),
        ("contradiction", np.array([0.5, np.nan, 1.5])),
        ("contradiction", np.array([-0.5, np.nan, 0.5])),
        ("contradiction", np.array([np.nan, np.nan, 0.5])),
        ("contradiction", np.array([0.5, 0.0, 0.5])),
        ("present", np.ones((2, 3), bool)),
        ("label", np.array([0, 4, 1])),
        ("label", np.array([0, -2, 1])),
        ("speaker", np.array([0, 3, 1])),
        ("speaker", np.array([0, -1, 1])),
        ("transcript", ("only", "two")),
    ],
)
def test_bad_predictions_are_refused_by_name(field, value):
    good = predict([0, 1, 2], np.full((3, 4), 0.25), "Ses01")
    assert good.present[:, 0].tolist() == [True, False, True]
    good = dataclasses.replace(good, contradiction=np.array([0, np.nan, 1], np.float32))
    check_predictions([good], 4, 3)
    with pytest.raises(DataError) as error:
        check_predictions([dataclasses.replace(good, **{field: value})], 4, 3)
    assert (error.value.conversation, error.value.field) == ("Ses01", field)


def test_a_conversation_twice_or_empty_is_refused():
    one = predict([0], [[1.0]])
    with pytest.raises(DataError, match="predicted twice"):
        check_predictions([one, one], 1)
    with pytest.raises(DataError, match="no utterances"):
        check_predictions([predict(np.array([], int), np.zeros((0, 1)))], 1)


def _accuracy(prediction):
    scored = prediction.label >= 0
    return (prediction.probability.argmax(-1) == prediction.label)[scored].mean()


@pytest.mark.parametrize("dialogues", [9, 10])
def test_the_conversation_shown_is_of_median_accuracy(dialogues):
    predictions = sample(dialogues, lengths=(SHORTEST, 20), seed=1, unlabelled=0.05)
    shown = pick_conversation(predictions)
    accuracy = [_accuracy(p) for p in predictions if _accuracy(p) < 1]
    assert _accuracy(shown) == np.quantile(accuracy, 0.5, method="lower")
    assert pick_conversation(predictions[::-1]) is shown


def test_short_perfect_and_unlabelled_conversations_are_shown_only_when_there_is_nothing_else():
    def conversation(id, L, right, labelled=True):
        label = np.zeros(L, int) if labelled else np.full(L, -1)
        probability = np.tile([0.0, 1.0], (L, 1))
        probability[:right] = [1.0, 0.0]
        return predict(label, probability, id)

    unlabelled = conversation("unlabelled", 9, 0, labelled=False)
    short = conversation("short", SHORTEST - 1, 3)
    perfect = conversation("perfect", 9, 9)
    mixed = conversation("mixed", 9, 1)
    pool = [unlabelled, short, perfect, mixed]
    for expected in (mixed, perfect, short, unlabelled):
        assert pick_conversation(pool) is expected
        pool.remove(expected)
    with pytest.raises(DataError, match="no conversation"):
        pick_conversation(pool)
