"""How operands lie in a TPU's memory, and what all of its kernels do alike.

Heads come before columns, and lengths are filled up to whole blocks. Maps are transposed, keys
along sublanes and queries along lanes: what belongs to a query is then a row vector that costs no
padding, and a sum over keys adds registers instead of the lanes within one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from emojax.ops.diff_attention.kernels import Division, Given, Output, dot, fill
from emojax.ops.diff_attention.problem import HIDDEN, Operands
from emojax.ops.random import keep_pair

LANES = 128
"""Columns are filled up to a multiple of this."""

_FAST_MEMORY = 100 << 20
"""Bytes that a kernel may take, of the 128 MiB of a TPU core."""


class At(NamedTuple):
    """Where a program is.

    Attributes:
      row, shared, member: row, key head, and head among those that share it.
      query, key: blocks of columns.
      step: place in the innermost loop.
      active: whether any query of the block sees any key of the block.
    """

    row: Any
    shared: Any
    member: Any
    query: Any
    key: Any
    step: Any = 0
    active: Any = True


class Call(Division):
    """A problem on TPU; `where` is the function that tells a program's place from grid indices."""

    def lay_out(self, x: Operands) -> Operands:
        """See `Division.lay_out`.

        Returns:
          q, q2 [B, H, I, d]; k, k2 [B, K, J, d]; v [B, K, J, e]; lam f32[B, H, 1, I]; low, high and
          low2 i32[B, 1, I]; seed i32[B, H] and first i32[B] in scalar memory.
        """

        def query(y: Any) -> Any:
            return None if y is None else self.lay_out_query(y)

        def key(y: Any) -> Any:
            return None if y is None else fill(y.transpose(0, 2, 1, 3), 2, self.key_block)

        def span(y: Array) -> Array:
            return fill(y[:, None], 2, self.query_block)

        lam = None
        if x.lam is not None:
            lam = fill(x.lam.transpose(0, 2, 1)[:, :, None], 3, self.query_block)
        dropped = x.seed is not None
        return Operands(
            q=query(x.q), q2=query(x.q2), k=key(x.k), k2=key(x.k2), v=key(x.v), lam=lam,
            low=span(x.low), high=span(x.high), low2=None if x.q2 is None else span(x.low2),
            seed=x.seed.astype(jnp.int32) if dropped else None, first=x.first if dropped else None,
        )  # fmt: skip

    def lay_out_query(self, y: Array) -> Array:
        return fill(y.transpose(0, 2, 1, 3), 2, self.query_block)

    def restore(self, y: Array, like: Any) -> Array:
        return y[:, :, : like.shape[1]].transpose(0, 2, 1, 3)

    def restore_vector(self, y: Array, like: Any) -> Array:
        return y[:, :, 0, : like.shape[1]].transpose(0, 2, 1)

    def total(self, y: Array) -> Array:
        return y.sum(-1)[:, :, None]

    def of_query(self, width: int, dtype: Any, *where: Any) -> Output:
        """[B, H, I, width]; a program sees [I, width]."""
        (at,) = where

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared * self.group + p.member, p.query, 0

        shape = self.rows, self.heads, self.queries, width
        return Output(shape, dtype, pl.BlockSpec((None, None, self.query_block, width), index))

    def of_key(self, width: int, dtype: Any, *where: Any) -> Output:
        """[B, K, J, width]; a program sees [J, width]."""
        (at,) = where

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared, p.key, 0

        shape = self.rows, self.shared, self.keys, width
        return Output(shape, dtype, pl.BlockSpec((None, None, self.key_block, width), index))

    def of_vector(self, *where: Any) -> Output:
        """f32[B, H, 1, I]; a program sees [1, I]."""
        (at,) = where

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared * self.group + p.member, 0, p.query

        shape = self.rows, self.heads, 1, self.queries
        return Output(shape, jnp.float32, pl.BlockSpec((None, None, 1, self.query_block), index))

    def of_span(self, *where: Any) -> pl.BlockSpec:
        """[B, 1, I]; a program sees [1, I]."""
        (at,) = where

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, 0, p.query

        return pl.BlockSpec((None, 1, self.query_block), index)

    def of_seed(self) -> pl.BlockSpec:
        return pl.BlockSpec(memory_space=pltpu.SMEM)

    def of_first(self) -> pl.BlockSpec:
        return pl.BlockSpec(memory_space=pltpu.SMEM)

    def run(
        self, kernel: Callable[..., None], x: Operands, given: Given | None,
        at: Callable[..., At], *,
        name: str, grid: Sequence[int], products: int, outputs: Any, scratch: Sequence[Any] = (),
        prefetched: Sequence[Array] = (), inner: int = 0,
    ) -> Any:  # fmt: skip
        """`kernel(place, operands, given, outputs, scratch)` for each place of the grid.

        Args:
          at: place of grid indices and, after them, of what is prefetched.
          products: multiplications for each query and key of a block; XLA cannot look into a
            kernel, and plans and counts by what it is told.
          outputs: a tree of `Output`; the same tree of arrays is returned.
          prefetched: i32 arrays that `at` reads before a program's blocks are fetched.
          inner: how many of the last grid axes one core must walk in order.
        """
        leaves, structure = jax.tree.flatten((x, given))
        outs, out_structure = jax.tree.flatten(outputs)
        count = len(prefetched)

        def body(*refs: Any) -> None:
            early, refs = refs[:count], refs[count:]
            inputs = jax.tree.unflatten(structure, refs[: len(leaves)])
            rest = refs[len(leaves) :]
            place = at(*(pl.program_id(axis) for axis in range(len(grid))), *early)
            written = jax.tree.unflatten(out_structure, rest[: len(outs)])
            kernel(place, *inputs, written, rest[len(outs) :])

        pairs = math.prod(grid) * self.query_block * self.key_block
        cost = pl.CostEstimate(
            flops=2 * pairs * products,
            transcendentals=pairs * x.map_count,
            bytes_accessed=sum(
                math.prod(each.shape) * jnp.dtype(each.dtype).itemsize for each in (*leaves, *outs)
            ),
        )
        order: Any = ("parallel",) * (len(grid) - inner) + ("arbitrary",) * inner
        found = pl.pallas_call(
            body,
            out_shape=[jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outs],
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=count,
                grid=tuple(grid),
                in_specs=self.specs(x, given, at),
                out_specs=[out.spec for out in outs],
                scratch_shapes=list(scratch),
            ),
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=order, vmem_limit_bytes=_FAST_MEMORY
            ),
            cost_estimate=cost,
            interpret=self.interpret,
            name=name,
        )(*prefetched, *leaves)
        return jax.tree.unflatten(out_structure, found)

    def scores(self, q: Any, k: Any, low: Any, high: Any, at: At) -> Array:
        """f32[keys, queries]; `HIDDEN` where a query may not look."""
        scores = dot(k[...], q[...], 1, 1) * self.options.scale
        column = at.key * self.key_block + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        return jnp.where((column >= low[...]) & (column < high[...]), scores, HIDDEN)

    def drop(self, x: Operands, at: At) -> Callable[[Array], Array]:
        """What takes from a map, f32[keys, queries], the entries that dropout hits."""
        if x.seed is None:
            return lambda weights: weights
        shape = self.key_block, self.query_block
        key, query = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        seed = x.seed[at.row, at.shared * self.group + at.member].astype(jnp.uint32)
        kept = keep_pair(
            seed, query + x.first[at.row] + at.query * self.query_block,
            key + at.key * self.key_block, self.options.drop_rate,
        )  # fmt: skip
        return lambda weights: jnp.where(kept, weights, 0)
