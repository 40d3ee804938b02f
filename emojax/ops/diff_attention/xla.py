"""Differential attention through XLA: no map outlives the block of queries that it belongs to.

Forward and backward are written out (`jax.custom_vjp`): what is kept between them has the size of
the result, and every pass over a map is one that mathematics needs. A block is a few queries of all
heads and the keys within their reach, so a window costs L w instead of L L. The backward pass works
on transposed maps, because most of its products want them so.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention.blocks import tuned
from emojax.ops.diff_attention.problem import FLOOR, HIDDEN, Operands, Options, unrolled
from emojax.ops.diff_attention.xla_layout import (
    Keys,
    Plan,
    Queries,
    join,
    lay_out_keys,
    lay_out_queries,
    make_plan,
    product,
    split,
    visible,
    within_reach,
)
from emojax.ops.diff_attention.xla_rolled import xla_rolled
from emojax.ops.random import keep_pair
from emojax.ops.rows import by_row
from emojax.ops.target import target


def xla(
    x: Operands, options: Options, *, map_elements: int | None = None
) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`.

    Args:
      map_elements: about how many elements a block of a map has, all heads together; None takes
        what was measured to be fastest.
    """
    if x.rolled is not None and x.q.shape[2] == x.k.shape[2]:
        return xla_rolled(x, options)
    x = unrolled(x)
    if map_elements is None:
        map_elements = tuned("xla", target()[1], x.k.shape[1])["map_elements"]
    return _attend(x, options, make_plan(x, options, map_elements))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(x: Operands, options: Options, plan: Plan) -> Array:
    return _forward(x, options, plan)[0]


def _forward(x: Operands, options: Options, plan: Plan) -> tuple[Array, tuple]:
    def row(x: Operands, _: None) -> tuple[Array, Any]:
        blocks, keys = lay_out_queries(x, plan), lay_out_keys(x)
        found, sums = _over(lambda b: _find(b, keys, x.shown, plan, options), blocks, plan)
        return join(found, plan, len(x.q)).astype(x.v.dtype), sums

    found, sums = by_row(row, x, recompute=False)
    return found, (x, sums)


def _over(function: Any, blocks: Any, plan: Plan) -> Any:
    """`function` of each block. A single one is not worth a loop."""
    if plan.blocks > 1:
        return jax.lax.map(function, blocks)
    return jax.tree.map(lambda y: y[None], function(jax.tree.map(lambda y: y[0], blocks)))


def _find(
    block: Queries, keys: Keys, shown: Array | None, plan: Plan, options: Options
) -> tuple[Array, list[Array]]:
    """What the queries find, [K, Q, e]; peak and factor of each map, [K, Q, 1]: what makes scores a
    map is exp(score - peak) factor."""
    keys, column, start = within_reach(keys, block.column, plan)

    def weigh(q: Array, k: Array, low: Array) -> tuple[Array, Array, Array]:
        # Scaled in fp32: a scaled bf16 query would be rounded once more.
        scores = product(q, k, 2, 2) * options.scale
        seen = visible(low, block.high, block.column, column, shown, start)
        scores = jnp.where(seen, scores, HIDDEN)
        peak = jnp.maximum(scores.max(-1, keepdims=True), FLOOR)
        e = jnp.exp(scores - peak)
        total = e.sum(-1, keepdims=True)
        return e, peak, jnp.where(total > 0, 1 / total, 0)

    weights, *sums = weigh(block.q, keys.k, block.low)
    weights *= sums[1]
    if block.q2 is not None and keys.k2 is not None:
        second, *sums2 = weigh(block.q2, keys.k2, block.low2)
        weights -= second * (sums2[1] * block.lam)
        sums += sums2
    if block.seed is not None:
        weights = jnp.where(
            keep_pair(block.seed, block.column, column, options.drop_rate), weights, 0
        )
    found = product(weights.astype(keys.v.dtype), keys.v, 2, 1) / options.keep_rate
    return found, sums


def _backward(options: Options, plan: Plan, saved: tuple, gradient: Array) -> tuple[Operands]:
    x, sums = saved

    def row(x: Operands, gradient: Array, sums: Any, _: None) -> Any:
        blocks, keys = lay_out_queries(x, plan), lay_out_keys(x)
        given: Any = blocks, split(gradient, plan), sums

        def step(sums: Keys, given: Any) -> tuple[Keys, Any]:
            own, of_keys, start = _differentiate(given, keys, x.shown, plan, options)

            def add(total: Array, new: Array) -> Array:
                old = jax.lax.dynamic_slice_in_dim(total, start, plan.keys, 1)
                return jax.lax.dynamic_update_slice_in_dim(total, old + new, start, 1)

            return jax.tree.map(add, sums, of_keys), own

        if plan.blocks == 1:
            only = jax.tree.map(lambda y: y[0], given)
            of_block, of_keys = _differentiate(only, keys, x.shown, plan, options)[:2]
            own = jax.tree.map(lambda y: y[None], of_block)
        else:
            nothing = jax.tree.map(lambda y: jnp.zeros(y.shape, jnp.float32), keys)
            of_keys, own = jax.lax.scan(step, nothing, given)
        of_keys = jax.tree.map(lambda y: y.transpose(1, 0, 2), of_keys)
        return jax.tree.map(lambda y: join(y, plan, len(x.q)), own), of_keys

    (dq, dq2, dlam), of_keys = by_row(row, x, gradient, sums, recompute=False)
    dlam = None if dlam is None else dlam[..., 0]
    return (x.gradients(dq, of_keys.k, of_keys.v, dlam, dq2, of_keys.k2),)


def _differentiate(
    given: Any, keys: Keys, shown: Array | None, plan: Plan, options: Options
) -> tuple[tuple[Array, Any, Any], Keys, Array]:
    """Derivatives by q, q2 and lambda, and by the keys that the block can reach.

    Maps are transposed here: keys, then queries.
    """
    block, gradient, sums = given
    keys, column, start = within_reach(keys, block.column, plan)
    column = column[:, None]
    turn = functools.partial(jnp.swapaxes, axis1=1, axis2=2)

    def weights(q: Array, k: Array, low: Array, peak: Array, factor: Array) -> Array:
        scores = product(k, q, 2, 2) * options.scale
        seen = visible(turn(low), turn(block.high), turn(block.column), column, shown, start)
        scores = jnp.where(seen, scores, HIDDEN)
        return jnp.exp(scores - turn(peak)) * turn(factor)

    def by(scores: Array, q: Array, k: Array) -> tuple[Array, Array]:
        scores = scores.astype(q.dtype)
        return product(scores, k, 1, 1) * options.scale, product(scores, q, 2, 1) * options.scale

    # Factors go to the small side of a product: a map has no room for one more pass.
    gradient = (gradient / options.keep_rate).astype(keys.v.dtype)
    first = weights(block.q, keys.k, block.low, *sums[:2])
    by_map = product(keys.v, gradient, 2, 2)
    combined, kept = first, None
    if block.seed is not None:
        kept = keep_pair(turn(block.seed), turn(block.column), column, options.drop_rate)
        by_map = jnp.where(kept, by_map, 0)
    dq2: Any = None
    dk2: Any = None
    dlam: Any = None
    if block.q2 is not None and keys.k2 is not None:
        lam = turn(block.lam)
        second = weights(block.q2, keys.k2, block.low2, *sums[2:])
        common2 = (second * by_map).sum(1, keepdims=True)
        combined, dlam = first - second * lam, -turn(common2)
        scaled = (-block.lam * block.q2).astype(block.q2.dtype)
        dq2, dk2 = by(second * (by_map - common2), scaled, keys.k2)
        dq2 *= -block.lam
    if kept is not None:
        combined = jnp.where(kept, combined, 0)
    dv = product(combined.astype(keys.v.dtype), gradient, 2, 1)
    # Not from the result, though that is less work: rounding errors then would not cancel.
    common = (first * by_map).sum(1, keepdims=True)
    dq, dk = by(first * (by_map - common), block.q, keys.k)
    return (dq, dq2, dlam), Keys(dk, dk2, dv), start


_attend.defvjp(_forward, _backward)
