"""Differential attention as its definition reads; the oracle of every other implementation."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.ops.random import dropout


def masked_softmax(scores: Float[Array, "*axes J"], mask: Bool[Array, "*#axes J"]) -> Array:
    """Softmax over the last axis where `mask` holds; a row without any entry is all zeros."""
    scores = jnp.where(mask, scores, -jnp.inf)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(peak), peak, 0.0))
    total = weights.sum(-1, keepdims=True)
    # Not a tiny number: the gradient of an empty row would be 0 / tiny^2.
    return weights / jnp.where(total > 0, total, 1.0)


def _scores(q: Array, k: Array, scale: float) -> Array:
    return jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=jnp.float32) * scale


def shifted(scores: Array, mask: Array, segment: Array) -> tuple[Array, Array]:
    """Scores and mask of keys moved one step on inside their conversation.

    Moving keys moves columns: column j holds what i scored at j - 1. The first utterance of a
    conversation has no key to receive.
    """
    inside = jnp.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
    moved = jnp.pad(scores[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)))
    return moved, mask & inside[:, None, None, :]


def reference(
    q: Float[Array, "B L H d"],
    k: Float[Array, "B L H d"],
    v: Float[Array, "B L H e"],
    lam: Array | None,
    q2: Array | None,
    k2: Array | None,
    segment: Array,
    mask: Bool[Array, "B L L"],
    scale: float,
    drop_rate: float,
    key: Array | None,
) -> Float[Array, "B L H e"]:
    """See `api.differential_attention`; `mask` is segments, causality and window in one."""
    seen = mask[:, None]
    scores = _scores(q, k, scale)
    weights = masked_softmax(scores, seen)
    if lam is not None:
        if q2 is None or k2 is None:
            second = masked_softmax(*shifted(scores, seen, segment))
        else:
            second = masked_softmax(_scores(q2, k2, scale), seen)
        lam = jnp.broadcast_to(lam, q.shape[:3]).astype(jnp.float32)
        weights = weights - jnp.moveaxis(lam, 1, 2)[..., None] * second
    weights = dropout(weights, drop_rate, key)
    return jnp.einsum("bhij,bjhe->bihe", weights.astype(v.dtype), v)
