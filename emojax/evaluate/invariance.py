"""Whether what a model says of a conversation depends on its batch mates, measured."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from emojax.data.packing import BatchPlan
from emojax.data.pipeline import Batches
from emojax.dist.mesh import put_batch
from emojax.evaluate.predict import Predict

BATCHES = 8
"""Batches of a split that are looked at, evenly spread."""

TOLERANCE = 1e-4
"""Change of a probability up to which a model counts as invariant: rounding, and nothing else."""


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
    spread = np.linspace(0, len(plans) - 1, min(BATCHES, len(plans))).astype(int)
    changes = []
    for plan in (plans[i] for i in spread):
        places = [(row, place) for row, held in enumerate(plan.rows) for place in range(len(held))]
        row, place = min(places, key=lambda at: batches.lengths[plan.rows[at[0]][at[1]]])
        index = plan.rows[row][place]
        length = int(batches.lengths[index])
        start = int(batches.lengths[list(plan.rows[row][:place])].sum())
        alone = dataclasses.replace(
            plan, rows=((index,), *((),) * (len(plan.rows) - 1)),
            extent=None if plan.extent is None else length,
        )  # fmt: skip

        def probability(plan: BatchPlan, row: int, start: int, length: int = length) -> np.ndarray:
            batch, held = batches.collated(plan)
            found = predict(variables, put_batch(batch, held, len(plan.rows), mesh))[0]
            return np.exp(np.asarray(jax.device_get(found))[row, start : start + length])

        changes.append(abs(probability(plan, row, start) - probability(alone, 0, 0)).max())
    return BatchMates(len(changes), float(max(changes))) if changes else None
