"""What a model's word on an utterance depends on, measured: its batch mates, its future."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from emojax.data.packing import BatchPlan
from emojax.data.pipeline import Batches, collate
from emojax.dist.mesh import put_batch
from emojax.evaluate.predict import Predict
from emojax.types import MODALITIES, UNLABELLED, Conversation

BATCHES = 8
"""Batches of a split that are looked at, evenly spread."""

TOLERANCE = 1e-4
"""Change of a probability up to which nothing changed: rounding, and nothing else."""


@dataclasses.dataclass(frozen=True)
class BatchMates:
    """How much batch mates matter.

    Attributes:
      conversations: how many were looked at.
      largest: change of any probability of theirs when they are alone in their batch.
    """

    conversations: int
    largest: float

    @property
    def invariant(self) -> bool:
        return self.largest <= TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {**dataclasses.asdict(self), "invariant": self.invariant}


@dataclasses.dataclass(frozen=True)
class Future:
    """How much later utterances matter.

    Attributes:
      conversations: how many were looked at.
      largest: change of any probability of their first halves when their second halves are others,
        or are cut off.
    """

    conversations: int
    largest: float

    @property
    def seen(self) -> bool:
        return self.largest > TOLERANCE

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {**dataclasses.asdict(self), "seen": self.seen}


def batch_mates(
    predict: Predict, variables: Any, batches: Batches, mesh: Mesh | None = None
) -> BatchMates | None:
    """Predict conversations with their batch and again without anything else in it.

    Of a batch the shortest conversation is taken: padded rows are as long as the longest, so it is
    the one that has most to lose. Arrays keep their shape, so nothing is compiled anew.

    Returns:
      None if no batch holds two conversations.
    """
    plans = [p for p in batches.plan(0) if sum(map(len, p.rows)) > 1]
    changes = []
    for plan in _spread(plans):
        places = [(row, place) for row, held in enumerate(plan.rows) for place in range(len(held))]
        row, place = min(places, key=lambda at: batches.lengths[plan.rows[at[0]][at[1]]])
        index = plan.rows[row][place]
        start = int(batches.lengths[list(plan.rows[row][:place])].sum())
        columns = slice(start, start + int(batches.lengths[index]))
        batch, held = batches.collated(plan)
        found = predict(variables, put_batch(batch, held, len(plan.rows), mesh)).log_probability
        together = np.exp(np.asarray(jax.device_get(found))[row, columns])
        alone = _alone(predict, variables, batches, plan, batches.records[index], mesh)
        changes.append(abs(together - alone).max())
    return BatchMates(len(changes), float(max(changes))) if changes else None


def future(
    predict: Predict, variables: Any, batches: Batches, mesh: Mesh | None = None
) -> Future | None:
    """Predict conversations whole, then with other second halves, then without any.

    The second half is other in all that is known of it: features of another draw, other speakers,
    no labels. The longest conversation of a batch is taken, in a batch of its own, so that batch
    mates have no say; arrays keep the shape of its batch, so nothing is compiled anew.

    Returns:
      None if no conversation has two utterances.
    """
    draw = np.random.default_rng(0)
    changes: list[float] = []
    plans = [p for p in batches.plan(0) if any(batches.lengths[_members(p)] > 1)]
    for plan in _spread(plans):
        conversation = batches.records[max(_members(plan), key=lambda i: batches.lengths[i])]
        now = len(conversation) // 2
        whole, *others = (
            _alone(predict, variables, batches, plan, given, mesh)[:now]
            for given in (
                conversation, _with_another_end(conversation, now, draw),
                _without_end(conversation, now),
            )
        )  # fmt: skip
        changes += [float(abs(other - whole).max()) for other in others]
    return Future(len(changes) // 2, max(changes)) if changes else None


def _alone(
    predict: Predict, variables: Any, batches: Batches, plan: BatchPlan,
    conversation: Conversation, mesh: Mesh | None,
) -> np.ndarray:  # fmt: skip
    """Probabilities f32[L, C] of a conversation in a batch of the plan's shape and nothing else."""
    count = len(plan.rows)
    held = tuple(batches.held(count))
    mine = dataclasses.replace(
        plan, rows=tuple((0,) if row == 0 else () for row in held),
        extent=None if plan.extent is None else len(conversation),
    )  # fmt: skip
    batch = collate(mine, [conversation], batches.widths)
    found = predict(variables, put_batch(batch, held, count, mesh)).log_probability
    return np.exp(np.asarray(jax.device_get(found))[0, : len(conversation)])


def _members(plan: BatchPlan) -> list[int]:
    return [index for row in plan.rows for index in row]


def _spread(plans: Sequence[BatchPlan]) -> list[BatchPlan]:
    """At most `BATCHES` of them, from the first to the last."""
    chosen = np.linspace(0, len(plans) - 1, min(BATCHES, len(plans))).astype(int)
    return [plans[i] for i in chosen]


def _with_another_end(
    conversation: Conversation, now: int, draw: np.random.Generator
) -> Conversation:
    """Noise as large as the conversation's own features, each speaker another one of its own."""
    changed: dict[str, Any] = {}
    for i, name in enumerate(MODALITIES):
        known = getattr(conversation, name)[conversation.present[:, i]]
        end = getattr(conversation, name)[now:]
        noise = draw.normal(known.mean(), known.std(), end.shape) if known.size else end
        changed[name] = np.concatenate([getattr(conversation, name)[:now], noise], dtype=np.float32)
    who, place = np.unique(conversation.speaker, return_inverse=True)
    others = np.roll(who, 1)[place].astype(conversation.speaker.dtype)
    return dataclasses.replace(
        conversation, **changed,
        speaker=np.concatenate([conversation.speaker[:now], others[now:]]),
        label=np.where(np.arange(len(conversation)) < now, conversation.label, UNLABELLED),
    )  # fmt: skip


def _without_end(conversation: Conversation, now: int) -> Conversation:
    names = (*MODALITIES, "present", "speaker", "label", "transcript")
    return dataclasses.replace(conversation, **{n: getattr(conversation, n)[:now] for n in names})
