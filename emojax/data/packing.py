"""Which conversations share a row, which rows a batch: plans made from lengths alone.

A plan is a pure function of lengths, layout, seed and epoch, so every host makes the same one
without talking, and an interrupted epoch is taken up where it stopped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.config import OWN_BUCKET_STEP, PADDED_STEP, DataConfig
from emojax.errors import DataError


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """One batch: the conversations (by index) of each of its B rows, some of which may be empty.

    Attributes:
      length: L.
      rows: indices of the conversations of each row, in order.
      capacity, extent: see `types.Batch`; all rows of a batch have the same extent.
    """

    length: int
    rows: tuple[tuple[int, ...], ...]
    capacity: int | None = None
    extent: int | None = None


def plan_epoch(
    lengths: np.ndarray, config: DataConfig, *, seed: int | None = None, epoch: int = 0,
    rows_multiple: int = 1,
) -> list[BatchPlan]:  # fmt: skip
    """Batches that hold every conversation exactly once.

    Args:
      lengths: i32[N] utterances of each conversation.
      seed: shuffles conversations and batches, differently in each epoch; None keeps their order
        as far as packing allows. How many packed batches there are, and of which shape each one is,
        is the same whatever the seed: runs that differ in it can be one program.
      rows_multiple: batches get empty rows until their number is a multiple of this. They hold the
        same conversations whatever it is, so a run may go on with other devices.

    Raises:
      DataError: there is no conversation, or one is longer than the last bucket and `overlong` is
        "error".
    """
    if len(lengths) == 0:
        raise DataError("there is no conversation to make batches of")
    if config.overlong == "error" and config.buckets and lengths.max() > config.buckets[-1]:
        raise DataError(
            f"a conversation of {lengths.max()} utterances does not fit the largest bucket",
            fix=f"Add a bucket to data.buckets = {list(config.buckets)} or set "
            "data.overlong = own_bucket",
        )
    draw = None if seed is None else np.random.default_rng([seed, epoch])
    make = _packed if config.layout == "packed" else _padded
    batches = make(lengths, draw, config)
    if draw is not None:
        order = np.random.default_rng(epoch).permutation(len(batches))
        batches = [batches[i] for i in order]
    return [_filled(batch, rows_multiple) for batch in batches]


def _filled(plan: BatchPlan, multiple: int) -> BatchPlan:
    empty = -len(plan.rows) % multiple
    return dataclasses.replace(plan, rows=plan.rows + ((),) * empty) if empty else plan


def _bucket(length: int, buckets: Sequence[int]) -> int:
    for bucket in buckets:
        if length <= bucket:
            return bucket
    # A conversation longer than every bucket: rounded up, so that few shapes are compiled.
    return _rounded_up(length, OWN_BUCKET_STEP)


def _rounded_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _packed(
    lengths: np.ndarray, draw: np.random.Generator | None, config: DataConfig
) -> list[BatchPlan]:
    """Longest conversations first: which lengths share a row then depends on lengths alone.

    Of equally long conversations it is drawn who goes where, and of rows in which batch they are.
    """
    order = _shuffled(np.arange(len(lengths)), draw)
    order = order[np.argsort(-lengths[order], kind="stable")]
    waiting: dict[int, list[int]] = {}
    for index in order.tolist():
        waiting.setdefault(_bucket(int(lengths[index]), config.buckets), []).append(index)
    batches = []
    for bucket in sorted(waiting):
        rows = _best_fit(lengths, waiting[bucket], bucket)
        rows = [rows[i] for i in _shuffled(np.arange(len(rows)), draw)]
        count = max(1, config.batch_utterances // bucket)
        for start in range(0, len(rows), count):
            part = rows[start : start + count]
            part += [()] * (count - len(part))
            batches.append(BatchPlan(bucket, tuple(part)))
    return batches


def _shuffled(indices: np.ndarray, draw: np.random.Generator | None) -> np.ndarray:
    return indices if draw is None else draw.permutation(indices)


def _best_fit(lengths: np.ndarray, indices: list[int], size: int) -> list[tuple[int, ...]]:
    """Rows of at most `size` utterances; each conversation goes where least room is left over."""
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(size + 1)]
    for index in indices:
        length = int(lengths[index])
        room = next((r for r in range(length, size + 1) if by_room[r]), None)
        if room is None:
            row, room = len(rows), size
            rows.append([])
        else:
            row = by_room[room].pop()
        rows[row].append(index)
        by_room[room - length].append(row)
    return [tuple(row) for row in rows]


def _padded(
    lengths: np.ndarray, draw: np.random.Generator | None, config: DataConfig
) -> list[BatchPlan]:
    order = _shuffled(np.arange(len(lengths)), draw)
    batches = []
    count = min(config.batch_conversations, len(order))
    for start in range(0, len(order), count):
        part = order[start : start + count]
        longest, real = int(lengths[part].max()), int(lengths[part].sum())
        # Shapes must be few: each is compiled once, which takes longer than many steps.
        rows: list[tuple[int, ...]] = [(int(index),) for index in part]
        rows += [()] * (count - len(rows))
        if config.buckets:
            length = _bucket(longest, config.buckets)
        else:
            length = _rounded_up(longest, PADDED_STEP)
        places = len(rows) * length
        fifths = max(3, -(-5 * real // places))
        capacity = -(-fifths * places // 5)
        batches.append(BatchPlan(length, tuple(rows), capacity, longest))
    return batches
