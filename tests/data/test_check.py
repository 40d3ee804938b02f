"""Whatever is wrong with a conversation is found, and nothing that is right."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.data.check import check_conversation, check_unique
from emojax.errors import DataError
from tests.data.conftest import SIGNATURE, make_conversation

FEATURES = st.sampled_from(["text", "audio", "visual"])


def refused(conversation) -> DataError:
    with pytest.raises(DataError) as caught:
        check_conversation(conversation, SIGNATURE, file="some.pkl")
    error = caught.value
    assert error.file == "some.pkl"
    assert error.conversation == conversation.id
    return error


@given(length=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_sound_conversations_pass(length: int, seed: int):
    check_conversation(make_conversation("c", length, seed), SIGNATURE)


@given(
    field=FEATURES,
    length=st.integers(1, 8),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    data=st.data(),
)
def test_not_finite_features_are_found_anywhere(field, length, value, data):
    conversation = make_conversation("c", length)
    array = getattr(conversation, field)
    utterance = data.draw(st.integers(0, length - 1))
    array[utterance, data.draw(st.integers(0, array.shape[1] - 1))] = value
    error = refused(conversation)
    assert error.field == field
    assert f"utterance {utterance} " in error.problem
    assert ("NaN" if np.isnan(value) else "infinite") in error.problem


@given(
    field=st.sampled_from(["text", "audio", "visual", "present", "speaker", "label", "transcript"]),
    length=st.integers(2, 8),
    cut=st.integers(1, 8),
)
def test_lengths_that_differ(field, length, cut):
    conversation = make_conversation("c", length)
    short = getattr(conversation, field)[: -min(cut, length)]
    error = refused(dataclasses.replace(conversation, **{field: short}))
    assert "utterances" in error.problem


@given(
    field=st.sampled_from(["label", "speaker"]),
    value=st.integers(-(2**31), 2**31 - 1),
    utterance=st.integers(0, 4),
)
def test_ranges_of_labels_and_speakers(field, value, utterance):
    conversation = make_conversation("c", 5)
    getattr(conversation, field)[utterance] = value
    lowest, count = {"label": (-1, 3), "speaker": (0, 2)}[field]
    if lowest <= value < count:
        check_conversation(conversation, SIGNATURE)
    else:
        error = refused(conversation)
        assert error.field == field
        assert f"{value} of utterance {utterance} " in error.problem


@given(field=FEATURES, width=st.integers(0, 9))
def test_widths(field, width):
    conversation = make_conversation("c", 3)
    array = np.zeros((3, width), np.float32)
    conversation = dataclasses.replace(conversation, **{field: array})
    expected = dict(zip(("text", "audio", "visual"), SIGNATURE.widths, strict=True))[field]
    if width == expected:
        check_conversation(conversation, SIGNATURE)
    else:
        assert f"{width} wide" in refused(conversation).problem


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("text", np.zeros((3, 4), np.float64)),
        ("text", np.zeros((3, 4, 1), np.float32)),
        ("audio", [[0.0] * 3] * 3),
        ("present", np.zeros((3, 3), np.int32)),
        ("present", np.zeros((3, 2), bool)),
        ("speaker", np.zeros(3, np.int64)),
        ("label", np.zeros((3, 1), np.int32)),
    ],
)
def test_types(field, wrong):
    error = refused(dataclasses.replace(make_conversation("c", 3), **{field: wrong}))
    assert error.field == field


def test_empty():
    assert "no utterances" in refused(make_conversation("c", 0)).problem


def test_duplicates():
    a, b, c = (make_conversation(name) for name in "abc")
    check_unique({"train": [a, b], "test": [c]})
    with pytest.raises(DataError, match="twice in the train split"):
        check_unique({"train": [a, b, a], "test": [c]})
    with pytest.raises(DataError, match="two splits, train and test"):
        check_unique({"train": [a, b], "test": [c, b]})
