"""Batches as they come out of the pipeline: whole, in their place, and resumable."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.config import DataConfig
from emojax.data.packing import plan_epoch
from emojax.data.pipeline import Batches, collate
from emojax.types import MODALITIES, UNLABELLED
from tests.batches import SIGNATURE, pack, random_conversation

PACKED = DataConfig(buckets=(6, 12), batch_utterances=24)
PADDED = DataConfig(layout="padded", buckets=(6, 12), batch_conversations=4)
CONFIGS = {
    "packed": PACKED,
    "padded": PADDED,
    "authors": dataclasses.replace(PADDED, buckets=()),
}
FIELDS = (*MODALITIES, "present", "speaker", "label")


def batches(lengths, config, **options):
    records = [random_conversation(seed, length) for seed, length in enumerate(lengths)]
    return Batches(records, np.array(lengths), SIGNATURE.widths, config, **options)


def same(one, two):
    assert (one.rows, one.epoch, one.index, one.last) == (two.rows, two.epoch, two.index, two.last)
    assert one.batch.capacity == two.batch.capacity
    jax.tree.map(np.testing.assert_array_equal, one.batch, two.batch)


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


LENGTHS = [3, 5, 1, 12, 7, 2, 2, 9, 4, 6, 1, 11, 30]


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=20),
    config=st.sampled_from(list(CONFIGS.values())),
    seed=st.none() | st.integers(0, 9),
)
def test_an_epoch_holds_every_conversation_once_as_it_was_read(lengths, config, seed):
    source = batches(lengths, config, seed=seed)
    found = {}
    for packed in source.one_epoch():
        batch, covered = packed.batch, np.zeros(packed.batch.segment.shape, bool)
        for index, row, columns in packed.members():
            conversation = source.records[index]
            assert columns.stop - columns.start == len(conversation)
            for name in FIELDS:
                np.testing.assert_array_equal(
                    getattr(batch, name)[row, columns], getattr(conversation, name)
                )
            np.testing.assert_array_equal(batch.position[row, columns], range(len(conversation)))
            assert len(set(batch.segment[row, columns].tolist())) == 1
            assert not covered[row, columns].any()
            covered[row, columns] = True
            assert index not in found
            found[index] = packed.index
        np.testing.assert_array_equal(covered, batch.segment > 0)
        assert (batch.label[~covered] == UNLABELLED).all()
        assert not any(np.asarray(getattr(batch, m))[~covered].any() for m in MODALITIES)
        assert not batch.present[~covered].any()
        assert batch.capacity is None or covered.sum() <= batch.capacity
    assert sorted(found) == list(range(len(lengths)))


def test_collate_is_what_the_definition_of_a_batch_says():
    records = [random_conversation(seed, length) for seed, length in enumerate([4, 2, 6])]
    (plan,) = plan_epoch(
        np.array([4, 2, 6]), DataConfig(buckets=(12,), batch_utterances=24), seed=None
    )
    rows = [[records[i] for i in row] for row in plan.rows]
    jax.tree.map(
        np.testing.assert_array_equal, collate(plan, records, SIGNATURE.widths), pack(rows, 12)
    )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_epochs_follow_one_another_and_say_where_they_end(config):
    source = batches(LENGTHS, config, seed=3)
    sizes = [len(source.plan(epoch)) for epoch in range(3)]
    seen = take(iter(source), sum(sizes))
    expected = [(epoch, index) for epoch in range(3) for index in range(sizes[epoch])]
    assert [(b.epoch, b.index) for b in seen] == expected
    assert [b.last for b in seen] == [index == sizes[epoch] - 1 for epoch, index in expected]
    first, second = ([b.rows for b in seen if b.epoch == epoch] for epoch in (0, 1))
    assert first != second


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_processes_share_the_rows_of_every_batch(config, processes):
    whole = list(batches(LENGTHS, config, seed=1).one_epoch())
    shards = [
        list(
            batches(
                LENGTHS, config, seed=1, rows_multiple=processes,
                held=lambda rows, this=this: range(this, rows, processes),
            ).one_epoch()
        )
        for this in range(processes)
    ]  # fmt: skip
    assert {len(shard) for shard in shards} == {len(whole)}
    for packed, *parts in zip(whole, *shards, strict=True):
        # The same conversations wherever they go; empty rows fill what does not divide.
        filled = packed.rows + ((),) * (-len(packed.rows) % processes)
        assert {part.rows for part in parts} == {filled}
        assert sorted(row for part in parts for row in part.held) == list(range(len(filled)))
        for part in parts:
            assert list(part.members()) == list(packed.members())
            assert part.batch.segment.shape == (
                len(filled) // processes, packed.batch.segment.shape[1]
            )  # fmt: skip
            for mine, row in enumerate(part.held):
                expected = packed.batch.text[row] if row < len(packed.rows) else 0
                np.testing.assert_array_equal(part.batch.text[mine] - expected, 0)


@pytest.mark.parametrize("ahead", [False, True], ids=["plain", "prefetched"])
@pytest.mark.parametrize("steps", [0, 1, 4, 9])
def test_an_iterator_goes_on_where_its_saved_state_says(steps, ahead):
    def start():
        source = batches(LENGTHS, PACKED, seed=5)
        assert 3 < len(source.plan(0)) < 9  # so that the states span epochs and their ends
        return iter(source.prefetched() if ahead else source)

    undisturbed = take(start(), steps + 6)
    interrupted = start()
    take(interrupted, steps)
    state = json.loads(json.dumps(interrupted.get_state()))
    take(interrupted, 2)  # what was made ahead or consumed later is not in the state
    resumed = start()
    resumed.set_state(state)
    for one, two in zip(take(resumed, 6), undisturbed[steps:], strict=True):
        same(one, two)


def test_the_state_at_the_end_of_an_epoch_starts_the_next():
    source = batches(LENGTHS, PACKED, seed=5)
    iterator = iter(source)
    last = take(iterator, len(source.plan(0)))[-1]
    assert last.last
    other = iter(source)
    other.set_state(iterator.get_state())
    following = next(other)
    assert (following.epoch, following.index) == (1, 0)
    same(following, next(iterator))


def test_conversations_are_read_once():
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            type(self).reads += 1
            return super().__getitem__(index)

    records = Counting(random_conversation(seed, length) for seed, length in enumerate(LENGTHS))
    source = Batches(records, np.array(LENGTHS), SIGNATURE.widths, PACKED, seed=0)
    for _ in range(3):
        list(source.one_epoch())
    assert Counting.reads == len(LENGTHS)
