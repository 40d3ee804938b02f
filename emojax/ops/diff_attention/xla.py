"""Differential attention through XLA: no map outlives the block of queries that it belongs to.

Forward and backward are written out (`jax.custom_vjp`): what is kept between them has the size of
the result, and every pass over a map is one that mathematics needs. A block is a few queries of all
heads and the keys within their reach, so a window costs L w instead of L L. The backward pass works
on transposed maps, because most of its products want them so.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.attention import product
from emojax.ops.diff_attention.blocks import tuned
from emojax.ops.diff_attention.problem import FLOOR, HIDDEN, Operands, Options
from emojax.ops.random import keep_pair
from emojax.ops.rows import by_row
from emojax.ops.target import target

_LEAST = 32
"""Queries in a block, if the row has as many: with fewer, starting a block costs more than it."""


class _Plan(NamedTuple):
    """How the queries of a row are divided.

    Attributes:
      blocks: how many there are.
      queries: in each.
      keys: how many columns a block can reach.
      before: how many of them lie before its first query.
      shared, group: K key heads, each read by G heads.
    """

    blocks: int
    queries: int
    keys: int
    before: int
    shared: int
    group: int


def _plan(x: Operands, options: Options, map_elements: int) -> _Plan:
    length, heads = x.q.shape[1:3]
    total, shared = x.k.shape[1:3]
    reach = total
    if options.window is not None:
        reach = min(total, options.window * (1 if options.causal else 2))
    queries = min(length, _block(map_elements // heads, total, reach))
    return _Plan(
        blocks=-(-length // queries),
        queries=queries,
        keys=min(total, queries + reach),
        before=options.window or 0,
        shared=shared,
        group=heads // shared,
    )


def _block(size: int, total: int, reach: int) -> int:
    """Queries in a block: as many as a map of that size has room for, and with a window as many as
    it reaches, since each meets the keys of all."""
    if reach < total:
        return max(_LEAST, min(reach, int(math.sqrt(size + reach**2 / 4) - reach / 2)))
    return max(_LEAST, size // total)


def _split(x: Array, plan: _Plan) -> Array:
    """[I, H, w] as [blocks, K, Q, w] with Q = G x queries; what is added sees nothing."""
    x = jnp.pad(x, ((0, plan.blocks * plan.queries - len(x)), (0, 0), (0, 0)))
    x = x.reshape(plan.blocks, plan.queries, plan.shared, plan.group, x.shape[-1])
    x = x.transpose(0, 2, 3, 1, 4)
    return x.reshape(plan.blocks, plan.shared, plan.group * plan.queries, x.shape[-1])


def _join(x: Array, plan: _Plan, length: int) -> Array:
    """What `_split` did, undone."""
    x = x.reshape(plan.blocks, plan.shared, plan.group, plan.queries, x.shape[-1])
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(-1, plan.shared * plan.group, x.shape[-1])[:length]


class _Queries(NamedTuple):
    """Queries of a block, or of all blocks along a leading axis, and what belongs to each.

    Attributes:
      q, q2: [K, Q, d].
      lam: [K, Q, 1].
      low, high, low2, column: [1, Q, 1].
      seed: [K, Q, 1].
    """

    q: Array
    q2: Any
    lam: Any
    low: Array
    high: Array
    low2: Array
    column: Array
    seed: Any


class _Keys(NamedTuple):
    """Keys [K, J, d] and values [K, J, e] of a row, or those that a block can reach."""

    k: Array
    k2: Any
    v: Array


def _queries(x: Operands, plan: _Plan) -> _Queries:
    """The blocks of one row, whose arrays have no axis B."""
    length, heads = x.q.shape[:2]

    def split(y: Array | None) -> Array | None:
        return None if y is None else _split(y, plan)

    def each(y: Array) -> Array:
        """[I] the same for all heads."""
        y = jnp.broadcast_to(y[:, None, None], (length, plan.group, 1))
        return _split(y, plan._replace(shared=1))

    seed = None if x.seed is None else jnp.broadcast_to(x.seed[None, :, None], (length, heads, 1))
    return _Queries(
        q=_split(x.q, plan),
        q2=split(x.q2),
        lam=None if x.lam is None else _split(x.lam[..., None], plan),
        low=each(x.low), high=each(x.high), low2=each(x.low2),
        column=each(x.first + jnp.arange(length, dtype=jnp.int32)),
        seed=split(seed),
    )  # fmt: skip


def _keys(x: Operands) -> _Keys:
    return jax.tree.map(lambda y: y.transpose(1, 0, 2), _Keys(x.k, x.k2, x.v))


def _part(keys: _Keys, column: Array, plan: _Plan) -> tuple[_Keys, Array, Array]:
    """What a block can reach, which columns those are, and the first of them."""
    start = jnp.clip(column[0, 0, 0] - plan.before, 0, keys.k.shape[1] - plan.keys)
    part = jax.tree.map(lambda y: jax.lax.dynamic_slice_in_dim(y, start, plan.keys, 1), keys)
    return part, start + jnp.arange(plan.keys, dtype=jnp.int32), start


def xla(
    x: Operands, options: Options, *, map_elements: int | None = None
) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`.

    Args:
      map_elements: about how many elements a block of a map has, all heads together; None takes
        what was measured to be fastest.
    """
    if map_elements is None:
        map_elements = tuned("xla", target()[1], x.k.shape[1])["map_elements"]
    return _attend(x, options, _plan(x, options, map_elements))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attend(x: Operands, options: Options, plan: _Plan) -> Array:
    return _forward(x, options, plan)[0]


def _forward(x: Operands, options: Options, plan: _Plan) -> tuple[Array, tuple]:
    def row(x: Operands, _: None) -> tuple[Array, Any]:
        blocks, keys = _queries(x, plan), _keys(x)
        found, sums = _over(lambda b: _find(b, keys, plan, options), blocks, plan)
        return _join(found, plan, len(x.q)).astype(x.v.dtype), sums

    found, sums = by_row(row, x, recompute=False)
    return found, (x, sums)


def _over(function: Any, blocks: Any, plan: _Plan) -> Any:
    """`function` of each block. A single one is not worth a loop."""
    if plan.blocks > 1:
        return jax.lax.map(function, blocks)
    return jax.tree.map(lambda y: y[None], function(jax.tree.map(lambda y: y[0], blocks)))


def _find(block: _Queries, keys: _Keys, plan: _Plan, options: Options) -> tuple[Array, list[Array]]:
    """What the queries find, [K, Q, e]; peak and factor of each map, [K, Q, 1]: what makes scores a
    map is exp(score - peak) factor."""
    keys, column, _ = _part(keys, block.column, plan)

    def weigh(q: Array, k: Array, low: Array) -> tuple[Array, Array, Array]:
        # Scaled in fp32: a scaled bf16 query would be rounded once more.
        scores = product(q, k, 2, 2) * options.scale
        scores = jnp.where((column >= low) & (column < block.high), scores, HIDDEN)
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
    found = product(weights.astype(keys.v.dtype), keys.v, 2, 1) / (1 - options.drop_rate)
    return found, sums


def _backward(options: Options, plan: _Plan, saved: tuple, gradient: Array) -> tuple[Operands]:
    x, sums = saved

    def row(x: Operands, gradient: Array, sums: Any, _: None) -> Any:
        blocks, keys = _queries(x, plan), _keys(x)
        given: Any = blocks, _split(gradient, plan), sums

        def step(sums: _Keys, given: Any) -> tuple[_Keys, Any]:
            own, of_keys, start = _differentiate(given, keys, plan, options)

            def add(total: Array, new: Array) -> Array:
                old = jax.lax.dynamic_slice_in_dim(total, start, plan.keys, 1)
                return jax.lax.dynamic_update_slice_in_dim(total, old + new, start, 1)

            return jax.tree.map(add, sums, of_keys), own

        if plan.blocks == 1:
            only = jax.tree.map(lambda y: y[0], given)
            of_block, of_keys = _differentiate(only, keys, plan, options)[:2]
            own = jax.tree.map(lambda y: y[None], of_block)
        else:
            nothing = jax.tree.map(lambda y: jnp.zeros(y.shape, jnp.float32), keys)
            of_keys, own = jax.lax.scan(step, nothing, given)
        of_keys = jax.tree.map(lambda y: y.transpose(1, 0, 2), of_keys)
        return jax.tree.map(lambda y: _join(y, plan, len(x.q)), own), of_keys

    (dq, dq2, dlam), of_keys = by_row(row, x, gradient, sums, recompute=False)
    dlam = None if dlam is None else dlam[..., 0]
    return (x.gradients(dq, of_keys.k, of_keys.v, dlam, dq2, of_keys.k2),)


def _differentiate(
    given: Any, keys: _Keys, plan: _Plan, options: Options
) -> tuple[tuple[Array, Any, Any], _Keys, Array]:
    """Derivatives by q, q2 and lambda, and by the keys that the block can reach.

    Maps are transposed here: keys, then queries.
    """
    block, gradient, sums = given
    keys, column, start = _part(keys, block.column, plan)
    column = column[:, None]
    turn = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
    before_end = column < turn(block.high)

    def weights(q: Array, k: Array, low: Array, peak: Array, factor: Array) -> Array:
        scores = product(k, q, 2, 2) * options.scale
        scores = jnp.where((column >= turn(low)) & before_end, scores, HIDDEN)
        return jnp.exp(scores - turn(peak)) * turn(factor)

    def by(scores: Array, q: Array, k: Array) -> tuple[Array, Array]:
        scores = scores.astype(q.dtype)
        return product(scores, k, 1, 1) * options.scale, product(scores, q, 2, 1) * options.scale

    # Factors go to the small side of a product: a map has no room for one more pass.
    gradient = (gradient / (1 - options.drop_rate)).astype(keys.v.dtype)
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
    return (dq, dq2, dlam), _Keys(dk, dk2, dv), start


_attend.defvjp(_forward, _backward)
