"""From stored conversations to batches: a grain dataset whose position can be saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from emojax.config import DataConfig
from emojax.data.packing import BatchPlan, plan_epoch
from emojax.types import MODALITIES, UNLABELLED, Batch, Conversation

_PREFETCH = 2
_CACHE_BYTES = 4 << 30


@dataclasses.dataclass(frozen=True, eq=False)
class PackedBatch:
    """A batch of numpy arrays and where it stands.

    Attributes:
      batch: the rows that this process reads.
      held: which rows of the whole batch those are, increasing.
      rows: indices (into the split) of the conversations of each row of the whole batch.
      lengths: i32[N] utterances of the split's conversations.
      epoch, index: the epoch, from 0, and the batch's place in it.
      last: whether the epoch ends with it.
    """

    batch: Batch
    held: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    lengths: np.ndarray
    epoch: int
    index: int
    last: bool

    def members(self) -> Iterator[tuple[int, int, slice]]:
        """(conversation, row, columns) of every conversation of the whole batch."""
        for row, indices in enumerate(self.rows):
            start = 0
            for index in indices:
                columns = slice(start, start + int(self.lengths[index]))
                yield index, row, columns
                start = columns.stop


def collate(plan: BatchPlan, records: Sequence[Conversation], widths: Sequence[int]) -> Batch:
    """The rows of a plan as arrays; columns without an utterance are zeros and segment 0."""
    shape = (len(plan.rows), plan.length)
    sizes = dict(zip(MODALITIES, widths, strict=True))
    features = {m: np.zeros((*shape, width), np.float32) for m, width in sizes.items()}
    present = np.zeros((*shape, len(MODALITIES)), bool)
    speaker, segment, position = (np.zeros(shape, np.int32) for _ in range(3))
    label = np.full(shape, UNLABELLED, np.int32)
    for row, indices in enumerate(plan.rows):
        start = 0
        for number, index in enumerate(indices, start=1):
            conversation = records[index]
            columns = slice(start, start + len(conversation))
            for modality in MODALITIES:
                features[modality][row, columns] = getattr(conversation, modality)
            present[row, columns] = conversation.present
            speaker[row, columns] = conversation.speaker
            label[row, columns] = conversation.label
            segment[row, columns] = number
            position[row, columns] = np.arange(len(conversation))
            start = columns.stop
    extent = None if plan.extent is None else np.full(len(plan.rows), plan.extent, np.int32)
    return Batch(
        **features, present=present, speaker=speaker, segment=segment, position=position,
        label=label, extent=extent, capacity=plan.capacity,
    )  # fmt: skip


def smallest_batch(widths: Sequence[int]) -> Batch:
    """One utterance of zeros: shapes of variables depend on feature widths alone."""
    return collate(BatchPlan(1, ((),)), (), widths)


class Batches(grain.IterDataset[PackedBatch]):
    """Endless epochs of batches; iterate with `iter(...)`, whose state is two integers.

    Args:
      records: the split's conversations, read at random.
      lengths: i32[N] their numbers of utterances.
      widths: feature widths of the modalities.
      config: layout, buckets and sizes.
      seed: shuffles every epoch anew; None is file order.
      rows_multiple: see `plan_epoch`.
      held: number of rows of a batch -> those that this process reads, increasing; None is all.
        Every process makes the same plan.
    """

    def __init__(
        self,
        records: Sequence[Conversation],
        lengths: np.ndarray,
        widths: Sequence[int],
        config: DataConfig,
        *,
        seed: int | None = None,
        rows_multiple: int = 1,
        held: Callable[[int], Sequence[int]] | None = None,
    ):
        super().__init__()
        small = int(lengths.sum()) * sum(widths) * 4 <= _CACHE_BYTES
        cached = isinstance(records, _Cached) or not small
        self.records: Any = records if cached else _Cached(records)
        self.lengths, self.widths = lengths, tuple(widths)
        self.config, self.seed, self.rows_multiple = config, seed, rows_multiple
        self.held = held or range

    def plan(self, epoch: int) -> list[BatchPlan]:
        """The batches of an epoch, whole."""
        return plan_epoch(
            self.lengths, self.config, seed=self.seed, epoch=epoch,
            rows_multiple=self.rows_multiple,
        )  # fmt: skip

    def collated(self, plan: BatchPlan) -> tuple[Batch, tuple[int, ...]]:
        """The rows of a batch that this process reads, and which they are."""
        held = tuple(self.held(len(plan.rows)))
        mine = dataclasses.replace(plan, rows=tuple(plan.rows[row] for row in held))
        return collate(mine, self.records, self.widths), held

    def reseeded(self, seed: int) -> Batches:
        """The same conversations in another order, read and kept in memory only once."""
        return Batches(
            self.records, self.lengths, self.widths, self.config, seed=seed,
            rows_multiple=self.rows_multiple, held=self.held,
        )  # fmt: skip

    def __iter__(self) -> grain.DatasetIterator[PackedBatch]:
        return _BatchIterator(self)

    def prefetched(self) -> grain.IterDataset[PackedBatch]:
        """The same batches, made ahead by a thread."""
        return grain.experimental.ThreadPrefetchIterDataset(self, prefetch_buffer_size=_PREFETCH)

    def one_epoch(self) -> Iterator[PackedBatch]:
        """The batches of one epoch, for evaluation."""
        for batch in self:
            yield batch
            if batch.last:
                return


@dataclasses.dataclass(frozen=True, eq=False)
class StackedBatch:
    """Batches of N lanes at the same place of the same epoch.

    Attributes:
      batch: their arrays with an axis of lanes first.
      lanes: each of them.
    """

    batch: Batch
    lanes: tuple[PackedBatch, ...]


class StackedBatches(grain.IterDataset[StackedBatch]):
    """Several orders of the same conversations, side by side.

    Args:
      orders: with equal plans but for the conversations in them.
    """

    def __init__(self, orders: Sequence[Batches]):
        super().__init__()
        self.orders = orders

    def __iter__(self) -> grain.DatasetIterator[StackedBatch]:
        return _StackedIterator(self.orders)

    def prefetched(self) -> grain.IterDataset[StackedBatch]:
        """See `Batches.prefetched`."""
        return grain.experimental.ThreadPrefetchIterDataset(self, prefetch_buffer_size=_PREFETCH)


class _StackedIterator(grain.DatasetIterator[StackedBatch]):
    def __init__(self, orders: Sequence[Batches]):
        super().__init__()
        self._each = [iter(order) for order in orders]

    def __next__(self) -> StackedBatch:
        lanes = tuple(next(each) for each in self._each)
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays), *(lane.batch for lane in lanes))
        return StackedBatch(stacked, lanes)

    def get_state(self) -> dict[str, Any]:
        return self._each[0].get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        for each in self._each:
            each.set_state(state)


class _BatchIterator(grain.DatasetIterator[PackedBatch]):
    def __init__(self, batches: Batches):
        super().__init__()
        self._batches = batches
        self._epoch = self._index = 0
        self._plans = batches.plan(0)

    def __next__(self) -> PackedBatch:
        if self._index == len(self._plans):
            self._go_to(self._epoch + 1, 0)
        plan, index = self._plans[self._index], self._index
        self._index += 1
        return PackedBatch(
            *self._batches.collated(plan), plan.rows, self._batches.lengths, self._epoch, index,
            last=self._index == len(self._plans),
        )  # fmt: skip

    def _go_to(self, epoch: int, index: int) -> None:
        if epoch != self._epoch:
            self._plans = self._batches.plan(epoch)
        self._epoch, self._index = epoch, index

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "batch": self._index}

    def set_state(self, state: dict[str, Any]) -> None:
        self._go_to(int(state["epoch"]), int(state["batch"]))


class _Cached:
    """Conversations kept once they were read: decoding takes longer than a small model's step."""

    def __init__(self, records: Sequence[Conversation]):
        self._records = records
        self._known: dict[int, Conversation] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Conversation:
        found = self._known.get(index)
        if found is None:
            found = self._known[index] = self._records[index]
        return found
