"""Who may look at whom: boolean masks and relation codes from segments, positions, speakers.

Everything derives from the four integer arrays of a batch, so padding, packing, causality and
windows are one thing and every operator sees the same.
"""

from __future__ import annotations

import jax
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


def spans(
    segment: Int[Array, "B L"], *, causal: bool = False, window: int | None = None
) -> tuple[Int[Array, "B L"], Int[Array, "B L"], Int[Array, "B L"]]:
    """What `visible` says, as an interval: column i sees the columns low[i] <= j < high[i].

    Returns:
      (start, low, high). `start` is the first column of i's conversation; padding has an empty
      interval at 0.
    """
    column = jnp.broadcast_to(jnp.arange(segment.shape[1], dtype=jnp.int32), segment.shape)
    edge = segment[:, 1:] != segment[:, :-1]
    first = jnp.pad(edge, ((0, 0), (1, 0)), constant_values=True)
    last = jnp.pad(edge, ((0, 0), (0, 1)), constant_values=True)
    start = jax.lax.cummax(jnp.where(first, column, 0), axis=1)
    end = jax.lax.cummin(jnp.where(last, column + 1, segment.shape[1]), axis=1, reverse=True)
    low, high = start, end
    if window is not None:
        low, high = jnp.maximum(low, column - window), jnp.minimum(high, column + window + 1)
    if causal:
        high = jnp.minimum(high, column + 1)
    real = segment > 0
    return jnp.where(real, start, 0), jnp.where(real, low, 0), jnp.where(real, high, 0)


def relation_codes(same: Bool[Array, "*axes"], ahead: Int[Array, "*#axes"]) -> Int[Array, "*axes"]:
    """Relation of a visible pair (ReDiFu, relation subgraphs).

    Args:
      same: whether both are of the same speaker.
      ahead: column of who looks minus column of who is seen.
    """
    past = ahead > 0
    code = jnp.where(
        same, jnp.where(past, SAME_PAST, SAME_FUTURE), jnp.where(past, OTHER_PAST, OTHER_FUTURE)
    )
    return jnp.where(ahead == 0, SELF, code)


def relations(speaker: Int[Array, "B L"], visible: Bool[Array, "B L L"]) -> Int[Array, "B L L"]:
    """Relation code of every visible pair, 0 elsewhere."""
    same = speaker[:, :, None] == speaker[:, None, :]
    column = jnp.arange(speaker.shape[1])
    ahead = jnp.broadcast_to(column[:, None] - column[None, :], same.shape)
    return jnp.where(visible, relation_codes(same, ahead), 0)
