"""Differential attention as its definition reads; every other implementation must agree with it."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.ops.diff_attention.problem import Operands, Options
from emojax.ops.random import keep_pair


def masked_softmax(scores: Float[Array, "*axes J"], mask: Bool[Array, "*#axes J"]) -> Array:
    """Softmax over the last axis where `mask` holds; a row without any entry is all zeros."""
    scores = jnp.where(mask, scores, -jnp.inf)
    peak = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.where(jnp.isfinite(peak), peak, 0.0))
    total = weights.sum(-1, keepdims=True)
    # Not a tiny number: the gradient of an empty row would be 0 / tiny^2.
    return weights / jnp.where(total > 0, total, 1.0)


def reference(x: Operands, options: Options) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`. Both maps are stored for the backward pass."""
    group = x.q.shape[2] // x.k.shape[2]

    def softmax(q: Array, k: Array, low: Array) -> Float[Array, "B H I J"]:
        k = jnp.repeat(k, group, axis=2)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=jnp.float32)
        column = jnp.arange(k.shape[1])
        mask = (column >= low[..., None]) & (column < x.high[..., None])
        if x.shown is not None:
            query = x.first[:, None] + jnp.arange(q.shape[1])
            mask &= x.shown[:, None] | (column == query[..., None])
        return masked_softmax(options.scale * scores, mask[:, None])

    weights = softmax(x.q, x.k, x.low)
    if x.q2 is not None and x.k2 is not None and x.lam is not None:
        weights -= jnp.moveaxis(x.lam, 1, 2)[..., None] * softmax(x.q2, x.k2, x.low2)
    if x.seed is not None:
        query, key = (jnp.arange(size, dtype=jnp.int32) for size in weights.shape[2:])
        query = (x.first[:, None] + query)[:, None, :, None]
        kept = keep_pair(x.seed[..., None, None], query, key, options.drop_rate)
        weights = jnp.where(kept, weights / options.keep_rate, 0)
    v = jnp.repeat(x.v, group, axis=2)
    found = jnp.einsum(
        "bhij,bjhe->bihe", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
    )
    return found.astype(v.dtype)
