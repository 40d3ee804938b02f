"""Differential attention with rolled keys through XLA: what the published implementation computes.

The scores of rolled keys are the rolled scores, so the second map costs no product and no
exponential of its own; nor is it ever rolled: rolling the values the other way does the same. No
map outlives its row.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.ops.diff_attention.problem import HIDDEN, Operands, Options
from emojax.ops.diff_attention.xla_layout import product
from emojax.ops.random import keep_pair
from emojax.ops.rows import by_row

_EMPTY = 1e-30
"""Sum of exponentials, the largest of both maps 1, below which a map counts as empty: nothing real
is in it, or nothing within fp32's reach. It then finds zeros and has zero gradients."""


def xla_rolled(x: Operands, options: Options) -> Float[Array, "B I H e"]:
    """See `xla.xla`; heads share no keys, and all queries of a row see the same."""
    mask = jnp.arange(x.k.shape[1]) < x.high[:, :1]
    q, k, v = (y.transpose(0, 2, 1, 3) for y in (x.q, x.k, x.v))
    first, second = _attend(q, k, v, mask, x.rolled, x.seed, options)
    found = first - x.lam.transpose(0, 2, 1)[..., None] * second
    return found.transpose(0, 2, 1, 3).astype(x.v.dtype)


def _prepared(
    q: Array, k: Array, v: Array, mask: Array, extent: Array, scale: float
) -> tuple[Array, ...]:
    """Queries and keys of the scores; keys; values of the first and second map; who has which.

    Column j feeds the first map if j is real and the second if j + 1 (around the row) is.
    """
    # The key that rolls into column 0 is put where rolling all L columns takes it from.
    last = jax.lax.dynamic_slice_in_dim(k, extent - 1, 1, axis=1)
    k = jnp.concatenate([k[:, :-1], last], axis=1)
    after = jnp.roll(mask, -1)
    v = jnp.where(mask[:, None], v, 0)
    return (*_biased(q, k, mask | after, scale), k, v, jnp.roll(v, -1, axis=1), mask, after)


def _biased(
    q: Float[Array, "H L d"], k: Float[Array, "H L d"], used: Bool[Array, " L"], scale: float
) -> tuple[Float[Array, "H L d+1"], Float[Array, "H L d+1"]]:
    """Queries and keys whose product is the score, or nearly -inf for keys that are not `used`."""
    bias = jnp.broadcast_to(jnp.where(used, 0, HIDDEN).astype(k.dtype)[:, None], (*k.shape[:2], 1))
    one = jnp.ones((*q.shape[:2], 1), q.dtype)
    return jnp.concatenate([q * scale, one], -1), jnp.concatenate([k, bias], -1)


def _kept(seed: Array, rate: float, shape: tuple[int, ...], row: int) -> tuple[Array, Array]:
    """Which entries of the first and of the second map survive dropout of their difference.

    Entry j of the map meets entry j + 1 (around the row) of the rolled one. `row` is the axis of
    queries in `shape`, the other of the last two that of keys.
    """
    size = [shape[axis] if axis == row else 1 for axis in range(3)]
    query = jax.lax.broadcasted_iota(jnp.int32, size, row)
    size = [shape[axis] if axis == 3 - row else 1 for axis in range(3)]
    key = jax.lax.broadcasted_iota(jnp.int32, size, 3 - row)
    after = jnp.where(key == shape[3 - row] - 1, 0, key + 1)
    seed = seed[:, None, None]
    return keep_pair(seed, query, key, rate), keep_pair(seed, query, after, rate)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(
    q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None, options: Options
) -> tuple[Array, Array]:  # fmt: skip
    """What the two maps find, [B, H, L, d] each."""
    return _forward(q, k, v, mask, extent, seed, options)[0]


def _forward(
    q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None, options: Options
) -> tuple[tuple[Array, Array], tuple]:  # fmt: skip
    def rows(
        q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None, _key: None
    ) -> tuple[Array, ...]:
        queries, keys, _, one, two, *real = _prepared(q, k, v, mask, extent, options.scale)
        scores = product(queries, keys, 2, 2)
        peak = scores.max(-1)
        e = jnp.exp(scores - peak[..., None])
        counted = jnp.broadcast_to(jnp.stack(real, -1).astype(v.dtype), (*v.shape[:2], 2))
        sums = product(e.astype(v.dtype), counted, 2, 1)
        sums = jnp.where(sums > _EMPTY, sums * options.keep_rate, jnp.inf)
        e1 = e2 = e
        if seed is not None:
            e1, e2 = (jnp.where(kept, e, 0) for kept in _kept(seed, options.drop_rate, e.shape, 1))
        first = product(e1.astype(v.dtype), one, 2, 1) / sums[..., :1]
        second = product(e2.astype(v.dtype), two, 2, 1) / sums[..., 1:]
        return first, second, peak, sums

    first, second, *rest = by_row(rows, q, k, v, mask, extent, seed, recompute=False)
    return (first, second), (q, k, v, mask, extent, seed, first, second, *rest)


def _backward(
    options: Options, saved: tuple, gradients: tuple[Array, Array]
) -> tuple[Array | None, ...]:
    q, k, v, mask, extent, seed, *found = saved

    def rows(
        q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None, first: Array,
        second: Array, peak: Array, sums: Array, g1: Array, g2: Array, _: None,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Maps are transposed here: keys, then queries."""
        queries, keys, k, one, two, *real = _prepared(q, k, v, mask, extent, options.scale)
        e = jnp.exp(product(keys, queries, 2, 2) - peak[:, None])
        g1, g2 = g1 / sums[..., :1], g2 / sums[..., 1:]
        # Factors go to the small side of a product: a map has no room for one more pass.
        common = [
            options.keep_rate * (g * x).sum(-1)[:, None] for g, x in ((g1, first), (g2, second))
        ]
        g1, g2 = g1.astype(v.dtype), g2.astype(v.dtype)
        e1, e2, d1, d2 = e, e, product(one, g1, 2, 2), product(two, g2, 2, 2)
        if seed is not None:
            for_one, for_two = _kept(seed, options.drop_rate, e.shape, 2)
            e1, d1 = (jnp.where(for_one, x, 0) for x in (e, d1))
            e2, d2 = (jnp.where(for_two, x, 0) for x in (e, d2))
        d1 -= jnp.where(real[0][:, None], common[0], 0)
        d2 -= jnp.where(real[1][:, None], common[1], 0)
        scores = (e * (d1 + d2)).astype(q.dtype)
        dk, dv = product(scores, q, 2, 1) * options.scale, product(e1.astype(v.dtype), g1, 2, 1)
        dv += jnp.roll(product(e2.astype(v.dtype), g2, 2, 1), 1, axis=1)
        # Back from where the last key was put to where it came from.
        origin = (jnp.arange(len(mask)) == extent - 1)[:, None]
        moved = dk[:, -1:]
        dk = jnp.concatenate([dk[:, :-1], jnp.zeros_like(moved)], axis=1)
        dk += jnp.where(origin, moved, 0)
        return product(scores, k, 1, 1) * options.scale, dk, jnp.where(mask[:, None], dv, 0)

    dq, dk, dv = by_row(rows, q, k, v, mask, extent, seed, *found, *gradients, recompute=False)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_attend.defvjp(_forward, _backward)
