"""How rows are divided for XLA: blocks of queries, and the keys within their reach."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention.problem import Operands, Options

_LEAST = 32
"""Queries in a block, if the row has as many: with fewer, starting a block costs more than it."""


class Plan(NamedTuple):
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


def make_plan(x: Operands, options: Options, map_elements: int) -> Plan:
    length, heads = x.q.shape[1:3]
    total, shared = x.k.shape[1:3]
    reach = total
    if options.window is not None:
        reach = min(total, options.window * (1 if options.causal else 2))
    queries = min(length, _block(map_elements // heads, total, reach))
    return Plan(
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


def product(a: Float[Array, "K I P"], b: Float[Array, "K J Q"], i: int, j: int) -> Array:
    """Sum over axis `i` of a and `j` of b for each head, accumulated in fp32."""
    axes = (((i,), (j,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def split(x: Array, plan: Plan) -> Array:
    """[I, H, w] as [blocks, K, Q, w] with Q = G x queries; what is added sees nothing."""
    x = jnp.pad(x, ((0, plan.blocks * plan.queries - len(x)), (0, 0), (0, 0)))
    x = x.reshape(plan.blocks, plan.queries, plan.shared, plan.group, x.shape[-1])
    x = x.transpose(0, 2, 3, 1, 4)
    return x.reshape(plan.blocks, plan.shared, plan.group * plan.queries, x.shape[-1])


def join(x: Array, plan: Plan, length: int) -> Array:
    """What `_split` did, undone."""
    x = x.reshape(plan.blocks, plan.shared, plan.group, plan.queries, x.shape[-1])
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(-1, plan.shared * plan.group, x.shape[-1])[:length]


class Queries(NamedTuple):
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


class Keys(NamedTuple):
    """Keys [K, J, d] and values [K, J, e] of a row, or those that a block can reach."""

    k: Array
    k2: Any
    v: Array


def lay_out_queries(x: Operands, plan: Plan) -> Queries:
    """The blocks of one row, whose arrays have no axis B."""
    length, heads = x.q.shape[:2]

    def given(y: Array | None) -> Array | None:
        return None if y is None else split(y, plan)

    def each(y: Array) -> Array:
        """[I] the same for all heads."""
        y = jnp.broadcast_to(y[:, None, None], (length, plan.group, 1))
        return split(y, plan._replace(shared=1))

    seed = None if x.seed is None else jnp.broadcast_to(x.seed[None, :, None], (length, heads, 1))
    return Queries(
        q=split(x.q, plan), q2=given(x.q2),
        lam=None if x.lam is None else split(x.lam[..., None], plan),
        low=each(x.low), high=each(x.high), low2=each(x.low2),
        column=each(x.first + jnp.arange(length, dtype=jnp.int32)),
        seed=given(seed),
    )  # fmt: skip


def lay_out_keys(x: Operands) -> Keys:
    return jax.tree.map(lambda y: y.transpose(1, 0, 2), Keys(x.k, x.k2, x.v))


def within_reach(keys: Keys, column: Array, plan: Plan) -> tuple[Keys, Array, Array]:
    """What a block can reach, which columns those are, and the first of them."""
    start = jnp.clip(column[0, 0, 0] - plan.before, 0, keys.k.shape[1] - plan.keys)
    part = jax.tree.map(lambda y: jax.lax.dynamic_slice_in_dim(y, start, plan.keys, 1), keys)
    return part, start + jnp.arange(plan.keys, dtype=jnp.int32), start


def visible(
    low: Array, high: Array, query: Array, key: Array, shown: Array | None, start: Array
) -> Array:
    """Which of the columns `key`, from `start` on, each of the columns `query` may see."""
    seen = (key >= low) & (key < high)
    if shown is None:
        return seen
    shown = jax.lax.dynamic_slice_in_dim(shown, start, key.size).reshape(key.shape)
    return seen & (shown | (key == query))
