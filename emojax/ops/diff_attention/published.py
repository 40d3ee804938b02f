"""The temporal differential attention exactly as the published implementation computes it.

Its second map uses keys rolled by one step around the padded row while the key mask stays put, and
lambda scales the whole difference. Kept apart from `api`, whose operator has neither defect.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.attention import product, seen
from emojax.ops.random import keep_at
from emojax.ops.rows import by_row

_EMPTY = 1e-30
"""Sum of exponentials, the largest of both maps 1, below which a map counts as empty: nothing real
is in it, or nothing within fp32's reach. It then finds zeros and has zero gradients."""


def published_attention(
    q: Float[Array, "B L H d"],
    k: Float[Array, "B L H d"],
    v: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
    extent: Int[Array, " B"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "B L H d"]:
    """drop(softmax(s q k^T) - softmax(s q roll(k)^T)) v; the caller multiplies by lambda.

    Keys roll around the first `extent` columns of a row. The scores of rolled keys are the rolled
    scores, so the second map costs no product and no exponential of its own; nor is it ever
    rolled: rolling the values the other way does the same. No map outlives its row.
    """
    swap = (0, 2, 1, 3)
    rate = 0.0 if key is None else drop_rate
    first, second = _attend(
        *(x.transpose(swap) for x in (q, k, v)),
        mask,
        extent,
        key if rate > 0 else None,
        scale,
        rate,
    )
    return (first - second).transpose(swap).astype(v.dtype)


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
    return (*seen(q, k, mask | after, scale), k, v, jnp.roll(v, -1, axis=1), mask, after)


def _kept(key: Array, rate: float, shape: tuple[int, ...], row: int) -> tuple[Array, Array]:
    """Which entries of the first and of the second map survive dropout of their difference.

    Entry j of the map meets entry j + 1 (around the row) of the rolled one. `row` is the axis of
    queries in `shape`, the other of the last two that of keys.
    """
    head, i, j = (jax.lax.broadcasted_iota(jnp.uint32, shape, axis) for axis in (0, row, 3 - row))
    length = jnp.uint32(shape[-1])
    start = (head * length + i) * length
    after = jnp.where(j == length - 1, 0, j + 1)
    return keep_at(key, rate, start + j), keep_at(key, rate, start + after)


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def _attend(
    q: Array, k: Array, v: Array, mask: Array, extent: Array, key: Array | None,
    scale: float, rate: float,
) -> tuple[Array, Array]:  # fmt: skip
    """What the two maps find, [B, H, L, d] each."""
    return _forward(q, k, v, mask, extent, key, scale, rate)[0]


def _forward(
    q: Array, k: Array, v: Array, mask: Array, extent: Array, key: Array | None,
    scale: float, rate: float,
) -> tuple[tuple[Array, Array], tuple]:  # fmt: skip
    def rows(
        q: Array, k: Array, v: Array, mask: Array, extent: Array, key: Array | None
    ) -> tuple[Array, ...]:
        queries, keys, _, one, two, *real = _prepared(q, k, v, mask, extent, scale)
        scores = product(queries, keys, 2, 2)
        peak = scores.max(-1)
        e = jnp.exp(scores - peak[..., None])
        counted = jnp.broadcast_to(jnp.stack(real, -1).astype(v.dtype), (*v.shape[:2], 2))
        sums = product(e.astype(v.dtype), counted, 2, 1)
        sums = jnp.where(sums > _EMPTY, sums, jnp.inf)
        e1 = e2 = e
        if key is not None:
            e1, e2 = (jnp.where(kept, e, 0) for kept in _kept(key, rate, e.shape, 1))
        first = product(e1.astype(v.dtype), one, 2, 1) / (sums[..., :1] * (1 - rate))
        second = product(e2.astype(v.dtype), two, 2, 1) / (sums[..., 1:] * (1 - rate))
        return first, second, peak, sums

    first, second, *rest = by_row(rows, q, k, v, mask, extent, key=key, recompute=False)
    return (first, second), (q, k, v, mask, extent, key, first, second, *rest)


def _backward(
    scale: float, rate: float, saved: tuple, gradients: tuple[Array, Array]
) -> tuple[Array | None, ...]:
    q, k, v, mask, extent, key, *found = saved

    def rows(
        q: Array, k: Array, v: Array, mask: Array, extent: Array, first: Array, second: Array,
        peak: Array, sums: Array, g1: Array, g2: Array, key: Array | None,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        """Maps are transposed here: keys, then queries."""
        queries, keys, k, one, two, *real = _prepared(q, k, v, mask, extent, scale)
        e = jnp.exp(product(keys, queries, 2, 2) - peak[:, None])
        g1, g2 = g1 / sums[..., :1], g2 / sums[..., 1:]
        common = [(g * x).sum(-1)[:, None] for g, x in ((g1, first), (g2, second))]
        # Factors go to the small side of a product: a map has no room for one more pass.
        g1, g2 = ((g / (1 - rate)).astype(v.dtype) for g in (g1, g2))
        e1, e2, d1, d2 = e, e, product(one, g1, 2, 2), product(two, g2, 2, 2)
        if key is not None:
            for_one, for_two = _kept(key, rate, e.shape, 2)
            e1, d1 = (jnp.where(for_one, x, 0) for x in (e, d1))
            e2, d2 = (jnp.where(for_two, x, 0) for x in (e, d2))
        d1 -= jnp.where(real[0][:, None], common[0], 0)
        d2 -= jnp.where(real[1][:, None], common[1], 0)
        scores = (e * (d1 + d2)).astype(q.dtype)
        dk, dv = product(scores, q, 2, 1) * scale, product(e1.astype(v.dtype), g1, 2, 1)
        dv += jnp.roll(product(e2.astype(v.dtype), g2, 2, 1), 1, axis=1)
        # Back from where the last key was put to where it came from.
        origin = (jnp.arange(len(mask)) == extent - 1)[:, None]
        moved = dk[:, -1:]
        dk = jnp.concatenate([dk[:, :-1], jnp.zeros_like(moved)], axis=1)
        dk += jnp.where(origin, moved, 0)
        return product(scores, k, 1, 1) * scale, dk, jnp.where(mask[:, None], dv, 0)

    dq, dk, dv = by_row(rows, q, k, v, mask, extent, *found, *gradients, key=key, recompute=False)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), None, None, None


_attend.defvjp(_forward, _backward)
