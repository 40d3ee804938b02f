"""Plans of epochs: everything once, nothing too long, the same on every host."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.config import DataConfig
from emojax.data.packing import plan_epoch
from emojax.errors import DataError

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=60).map(np.array)
PACKED = DataConfig(buckets=(8, 20), batch_utterances=64)
PADDED = DataConfig(layout="padded", buckets=(8, 20), batch_conversations=5)
AUTHORS = dataclasses.replace(PADDED, buckets=())
CONFIGS = st.sampled_from([PACKED, PADDED, AUTHORS])
SEEDS = st.none() | st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None)
@given(lengths=LENGTHS, config=CONFIGS, seed=SEEDS, epoch=st.integers(0, 5))
def test_every_conversation_is_in_an_epoch_once_and_fits(lengths, config, seed, epoch):
    plans = plan_epoch(lengths, config, seed=seed, epoch=epoch)
    seen = [index for plan in plans for row in plan.rows for index in row]
    assert sorted(seen) == list(range(len(lengths)))
    for plan in plans:
        assert any(plan.rows)
        filled = [int(lengths[list(row)].sum()) for row in plan.rows]
        assert max(filled) <= plan.length
        if config.layout == "padded":
            assert all(len(row) <= 1 for row in plan.rows)
            assert sum(filled) <= plan.capacity <= len(plan.rows) * plan.length
            assert max(filled) == plan.extent
        else:
            assert plan.capacity is plan.extent is None


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, config=st.sampled_from([PACKED, PADDED]), seed=SEEDS)
def test_few_shapes_are_ever_compiled(lengths, config, seed):
    for plan in plan_epoch(lengths, config, seed=seed):
        # 64 is what conversations longer than the last bucket are rounded up to.
        assert plan.length in (*config.buckets, 64)
        rows = 64 // plan.length if config.layout == "packed" else min(5, len(lengths))
        assert len(plan.rows) == rows


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, config=CONFIGS, seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_a_plan_is_a_function_of_its_arguments(lengths, config, seed, epoch):
    one = plan_epoch(lengths, config, seed=seed, epoch=epoch)
    assert one == plan_epoch(lengths.copy(), config, seed=seed, epoch=epoch)


@pytest.mark.parametrize("config", [PACKED, PADDED, AUTHORS])
def test_epochs_and_seeds_shuffle_differently(config):
    lengths = np.random.default_rng(0).integers(1, 20, size=60)
    plans = [
        plan_epoch(lengths, config, seed=seed, epoch=epoch)
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    ]
    assert plans[0] != plans[1]
    assert plans[0] != plans[2]
    assert plans[1] != plans[2]


def test_without_a_seed_the_order_is_that_of_the_file():
    plans = plan_epoch(np.full(12, 3), AUTHORS)
    assert [i for plan in plans for row in plan.rows for i in row] == list(range(12))
    assert plans == plan_epoch(np.full(12, 3), AUTHORS, epoch=4)


def test_a_conversation_goes_to_the_shortest_bucket_that_holds_it():
    plans = plan_epoch(np.array([8, 9, 20, 21, 1]), PACKED)
    where = {i: plan.length for plan in plans for row in plan.rows for i in row}
    assert where == {0: 8, 1: 20, 2: 20, 3: 64, 4: 8}


def test_conversations_go_where_least_room_is_left():
    # 6 leaves 2 and 5 leaves 3, so 3 fills the latter and 2 the former.
    (plan,) = plan_epoch(np.array([5, 6, 2, 3]), PACKED)
    assert plan.rows[:2] == ((1, 2), (0, 3))
    assert plan.rows[2:] == ((),) * 6


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 2), epoch=st.integers(0, 5))
def test_packed_shapes_follow_from_lengths_and_epoch_whatever_the_seed(lengths, seeds, epoch):
    one, two = (
        [(len(p.rows), p.length) for p in plan_epoch(lengths, PACKED, seed=seed, epoch=epoch)]
        for seed in seeds
    )
    assert one == two
    assert sorted(one) == sorted(
        (len(p.rows), p.length) for p in plan_epoch(lengths, PACKED, seed=seeds[0], epoch=epoch + 1)
    )


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=60).map(np.array), seed=SEEDS)
def test_rows_are_never_two_where_one_would_do(lengths, seed):
    config = DataConfig(buckets=(20,), batch_utterances=20)
    filled = sorted(
        int(lengths[list(p.rows[0])].sum()) for p in plan_epoch(lengths, config, seed=seed)
    )
    assert len(filled) < 2 or filled[0] + filled[1] > 20


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_conversation_longer_than_every_bucket(layout):
    lengths = np.array([5, 150, 7])
    config = DataConfig(layout=layout, buckets=(8, 20), batch_utterances=64)
    lengths_of = {i: p.length for p in plan_epoch(lengths, config) for row in p.rows for i in row}
    assert lengths_of[1] == 192  # the next multiple of 64: nothing is cut
    with pytest.raises(DataError) as caught:
        plan_epoch(lengths, dataclasses.replace(config, overlong="error"))
    assert "150 utterances" in str(caught.value)
    assert "data.overlong = own_bucket" in str(caught.value)
    assert plan_epoch(np.array([5, 20]), dataclasses.replace(config, overlong="error"))


@pytest.mark.parametrize("config", [PACKED, PADDED, AUTHORS])
def test_no_conversation_at_all_is_an_error(config):
    with pytest.raises(DataError, match="no conversation"):
        plan_epoch(np.zeros(0, int), config)


def test_the_authors_pad_to_the_longest_of_a_batch():
    lengths = np.array([3, 9, 4, 1, 2, 7, 5])
    first, second = plan_epoch(lengths, AUTHORS)
    assert (first.extent, first.length, len(first.rows)) == (9, 16, 5)
    assert (second.extent, second.length, len(second.rows)) == (7, 16, 5)
    assert sum(map(len, second.rows)) == 2
