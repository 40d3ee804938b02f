"""Softmax attention over padded rows, no map of which outlives its row.

Forward and backward are written out so that every pass over a map is one that mathematics needs:
what may be attended to is a column of the product instead of a selection, sums are columns of the
product with the values, and the backward pass works on transposed maps, because three of its four
products want them so.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.ops.rows import by_row

_HIDDEN = -1e30
"""Score of what may not be attended to; finite, so that a row that may see nothing has no NaN."""


def softmax_attention(
    q: Float[Array, "B L H d"],
    k: Float[Array, "B L H d"],
    v: Float[Array, "B L H d"],
    used: Bool[Array, "B L"],
    *,
    scale: float,
) -> Float[Array, "B L H d"]:
    """softmax(s q k^T) v over the keys that are `used`, at least one a row. Maps are fp32."""
    swap = (0, 2, 1, 3)
    found = _attend(*(x.transpose(swap) for x in (q, k, v)), used, scale)
    return found.transpose(swap).astype(v.dtype)


def product(a: Float[Array, "H I P"], b: Float[Array, "H J Q"], i: int, j: int) -> Array:
    """Sum over axis `i` of a and `j` of b for each head, accumulated in fp32."""
    axes = (((i,), (j,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def seen(
    q: Float[Array, "H L d"], k: Float[Array, "H L d"], used: Bool[Array, " L"], scale: float
) -> tuple[Float[Array, "H L d+1"], Float[Array, "H L d+1"]]:
    """Queries and keys whose product is the score, or nearly -inf for keys that are not `used`."""
    bias = jnp.broadcast_to(jnp.where(used, 0, _HIDDEN).astype(k.dtype)[:, None], (*k.shape[:2], 1))
    one = jnp.ones((*q.shape[:2], 1), q.dtype)
    return jnp.concatenate([q * scale, one], -1), jnp.concatenate([k, bias], -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(q: Array, k: Array, v: Array, used: Array, scale: float) -> Array:
    return _forward(q, k, v, used, scale)[0]


def _forward(q: Array, k: Array, v: Array, used: Array, scale: float) -> tuple[Array, tuple]:
    def rows(q: Array, k: Array, v: Array, used: Array, _: None) -> tuple[Array, Array]:
        scores = product(*seen(q, k, used, scale), 2, 2)
        peak = scores.max(-1)
        e = jnp.exp(scores - peak[..., None])
        values = jnp.concatenate([v, jnp.ones((*v.shape[:2], 1), v.dtype)], -1)
        found = product(e.astype(v.dtype), values, 2, 1)
        return found[..., :-1] / found[..., -1:], peak + jnp.log(found[..., -1])

    found, log_sum = by_row(rows, q, k, v, used, recompute=False)
    return found, (q, k, v, used, found, log_sum)


def _backward(scale: float, saved: tuple, gradient: Array) -> tuple[Array | None, ...]:
    *arrays, found, log_sum = saved

    def rows(
        q: Array, k: Array, v: Array, used: Array, found: Array, log_sum: Array, g: Array, _: None
    ) -> tuple[Array, Array, Array]:
        queries, keys = seen(q, k, used, scale)
        weights = jnp.exp(product(keys, queries, 2, 2) - log_sum[:, None])
        common = (g * found).sum(-1)[:, None]
        g = g.astype(v.dtype)
        scores = (weights * (product(v, g, 2, 2) - common)).astype(q.dtype)
        # Factors go to the small side of a product: a map has no room for one more pass.
        return (
            product(scores, k, 1, 1) * scale,
            product(scores, q, 2, 1) * scale,
            product(weights.astype(v.dtype), g, 2, 1),
        )

    dq, dk, dv = by_row(rows, *arrays, found, log_sum, gradient, recompute=False)
    q, k, v, _ = arrays
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None


_attend.defvjp(_forward, _backward)
