"""Who may look at whom: boolean masks and relation codes from segments, positions, speakers.

Everything derives from the four integer arrays of a batch, so padding, packing, causality and
windows are one thing and every operator sees the same.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

SELF, SAME_PAST, SAME_FUTURE, OTHER_FUTURE, OTHER_PAST = 1, 2, 3, 4, 5
"""Relations of utterance i (who looks) to j (who is seen); 0 is no edge. The past is j < i."""

RELATIONS = 6
"""Number of relation codes, "no edge" included."""


def visible(
    segment: Int[Array, "B L"], *, causal: bool = False, window: int | None = None
) -> Bool[Array, "B L L"]:
    """True where utterance i may attend to utterance j.

    Both belong to the same conversation (padding, segment 0, sees and is seen by nobody), j is not
    in the future of i if `causal`, and |i - j| <= `window` if that is given. Conversations are
    contiguous in a row, so columns serve as positions.
    """
    same = (segment[:, :, None] == segment[:, None, :]) & (segment[:, :, None] > 0)
    column = jnp.arange(segment.shape[1])
    distance = column[:, None] - column[None, :]
    if causal:
        same = same & (distance >= 0)
    if window is not None:
        same = same & (jnp.abs(distance) <= window)
    return same


def relations(speaker: Int[Array, "B L"], visible: Bool[Array, "B L L"]) -> Int[Array, "B L L"]:
    """Relation code of every visible pair, 0 elsewhere (ReDiFu, relation subgraphs)."""
    same = speaker[:, :, None] == speaker[:, None, :]
    column = jnp.arange(speaker.shape[1])
    past = column[:, None] > column[None, :]
    code = jnp.where(
        same, jnp.where(past, SAME_PAST, SAME_FUTURE), jnp.where(past, OTHER_PAST, OTHER_FUTURE)
    )
    code = jnp.where(column[:, None] == column[None, :], SELF, code)
    return jnp.where(visible, code, 0)
