"""Masks against their definition pair by pair, relations against the published graphs."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emojax.ops.masks import (
    OTHER_FUTURE,
    OTHER_PAST,
    SAME_FUTURE,
    SAME_PAST,
    SELF,
    relations,
    visible,
)
from tests.ops.oracles import sees

GOLDENS = Path(__file__).parent.parent / "goldens"
compiled_visible = jax.jit(visible, static_argnames=("causal", "window"))
compiled_relations = jax.jit(relations)


@functools.cache
def rows(length: int):
    """Segments of two rows: some conversations one after the other, then padding."""
    lengths = st.lists(st.integers(1, 4), max_size=length)

    def row(sizes):
        numbers = [n for n, size in enumerate(sizes, start=1) for _ in range(size)][:length]
        return numbers + [0] * (length - len(numbers))

    return st.tuples(lengths, lengths).map(lambda pair: np.array([*map(row, pair)], np.int32))


@settings(max_examples=30, deadline=None)
@given(segment=rows(9), causal=st.booleans(), window=st.sampled_from([None, 0, 2]))
def test_visible_is_what_it_says_of_every_pair(segment, causal, window):
    mask = np.asarray(compiled_visible(segment, causal=causal, window=window))
    for b, row in enumerate(segment):
        for i in range(len(row)):
            assert np.flatnonzero(mask[b, i]).tolist() == sees(row, i, causal, window)


@settings(max_examples=30, deadline=None)
@given(segment=rows(9), speaker=arrays(np.int32, (2, 9), elements=st.integers(0, 2)))
def test_relations_tell_who_spoke_and_when(segment, speaker):
    codes = np.asarray(compiled_relations(speaker, compiled_visible(segment, window=3)))
    for b in range(2):
        for i in range(9):
            for j in range(9):
                if j not in sees(segment[b], i, window=3):
                    wanted = 0
                elif i == j:
                    wanted = SELF
                elif speaker[b, i] == speaker[b, j]:
                    wanted = SAME_PAST if j < i else SAME_FUTURE
                else:
                    wanted = OTHER_PAST if j < i else OTHER_FUTURE
                assert codes[b, i, j] == wanted


@pytest.mark.parametrize(
    ("branch", "window", "codes_there"),
    # Nine speakers drawn at random never spoke twice within MELD's small window.
    [("iemocap", 4, {0, 1, 2, 3, 4, 5}), ("meld", 3, {0, SELF, OTHER_FUTURE, OTHER_PAST})],
)
def test_relations_are_those_of_the_published_graphs(branch, window, codes_there):
    with np.load(GOLDENS / f"redifu_{branch}_branch.npz") as golden:
        speaker, mask = golden["input/speaker"].astype(np.int32), golden["input/mask"] > 0
        same, other = golden["input/self_relation"], golden["input/cross_relation"]
    seen = compiled_visible(mask.astype(np.int32), window=window)
    codes = np.asarray(compiled_relations(speaker, seen))
    np.testing.assert_array_equal(np.where(codes < OTHER_FUTURE, codes, 0), same)
    kept = (codes == SELF) | (codes >= OTHER_FUTURE)
    np.testing.assert_array_equal(np.where(kept, codes, 0), other)
    assert set(np.unique(codes).tolist()) == codes_there
