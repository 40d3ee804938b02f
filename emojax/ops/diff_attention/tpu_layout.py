"""How operands lie in a TPU's memory, and what all of its kernels do alike.

Heads come before columns, and lengths are filled up to whole blocks. Maps are transposed, keys
along sublanes and queries along lanes: what belongs to a query is then a row vector that costs no
padding, and a sum over keys adds registers instead of the lanes within one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from emojax.ops.diff_attention.kernels import Gradients, Inputs, dot, fill
from emojax.ops.diff_attention.problem import HIDDEN, Operands, Options
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


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that a kernel writes: shape, dtype and block, its place given by `at`."""

    shape: tuple[int, ...]
    dtype: Any
    spec: pl.BlockSpec


@dataclasses.dataclass(frozen=True)
class Call:
    """Sizes of a problem, known when compiling; I and J count whole blocks."""

    options: Options
    rows: int
    shared: int
    group: int
    queries: int
    keys: int
    query_block: int
    key_block: int
    interpret: Any

    @property
    def query_blocks(self) -> int:
        return self.queries // self.query_block

    @property
    def key_blocks(self) -> int:
        return self.keys // self.key_block

    def of_query(self, at: Callable[..., At], width: int) -> pl.BlockSpec:
        """The block of an array [B, H, I, width]."""

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared * self.group + p.member, p.query, 0

        return pl.BlockSpec((None, None, self.query_block, width), index)

    def of_key(self, at: Callable[..., At], width: int) -> pl.BlockSpec:
        """The block of an array [B, K, J, width]."""

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared, p.key, 0

        return pl.BlockSpec((None, None, self.key_block, width), index)

    def of_vector(self, at: Callable[..., At]) -> Output:
        """A number for each query and head, f32[B, H, 1, I]."""
        shape = self.rows, self.shared * self.group, 1, self.queries
        return Output(shape, jnp.float32, self.vector(at))

    def gradients(self, x: Inputs, at: Callable[..., At]) -> Gradients:
        """Derivatives by everything, in the dtypes and blocks of what they are of."""

        def of(array: Any, spec: Callable[..., pl.BlockSpec]) -> Output:
            return Output(array.shape, array.dtype, spec(at, array.shape[-1]))

        return Gradients(
            v=of(x.v, self.of_key),
            lam=None if x.lam is None else self.of_vector(at),
            q=tuple(of(q, self.of_query) for _, q, _, _ in x.maps()),
            k=tuple(of(k, self.of_key) for _, _, k, _ in x.maps()),
        )

    def vector(self, at: Callable[..., At]) -> pl.BlockSpec:
        """The block of an array [B, H, 1, I]."""

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, p.shared * self.group + p.member, 0, p.query

        return pl.BlockSpec((None, None, 1, self.query_block), index)

    def specs(self, x: Inputs, at: Callable[..., At]) -> Inputs:
        """The blocks of a program, whose place `at` tells from its grid indices."""

        def index(*grid: Any) -> tuple[Any, ...]:
            p = at(*grid)
            return p.row, 0, p.query

        span = pl.BlockSpec((None, 1, self.query_block), index)
        scalars = pl.BlockSpec(memory_space=pltpu.SMEM)
        kinds = Inputs(
            q=self.of_query, q2=self.of_query, gradient=self.of_query,
            k=self.of_key, k2=self.of_key, v=self.of_key,
            lam=self.vector(at), low=span, high=span, low2=span, seed=scalars, first=scalars,
            peaks=tuple(self.vector(at) for _ in x.peaks),
            factors=tuple(self.vector(at) for _ in x.factors),
            common=tuple(self.vector(at) for _ in x.common),
        )  # fmt: skip

        def spec(kind: Any, array: Any) -> Any:
            if array is None or isinstance(kind, tuple | pl.BlockSpec):
                return kind if array is not None else None
            return kind(at, array.shape[-1])

        return Inputs._make(spec(kind, array) for kind, array in zip(kinds, x, strict=True))

    def run(
        self, kernel: Callable[..., None], x: Inputs, at: Callable[..., At], *,
        name: str, grid: Sequence[int], products: int, outputs: Any, scratch: Sequence[Any] = (),
        prefetched: Sequence[Array] = (), inner: int = 0,
    ) -> Any:  # fmt: skip
        """`kernel(place, inputs, outputs, scratch)` for each place of the grid.

        Args:
          at: place of grid indices and, after them, of what is prefetched.
          products: multiplications for each query and key of a block; XLA cannot look into a
            kernel, and plans and counts by what it is told.
          outputs: a tree of `Output`; the same tree of arrays is returned.
          prefetched: i32 arrays that `at` reads before a program's blocks are fetched.
          inner: how many of the last grid axes one core must walk in order.
        """
        leaves, structure = jax.tree.flatten(x)
        outs, out_structure = jax.tree.flatten(outputs)
        count = len(prefetched)

        def body(*refs: Any) -> None:
            early, refs = refs[:count], refs[count:]
            inputs = jax.tree.unflatten(structure, refs[: len(leaves)])
            rest = refs[len(leaves) :]
            place = at(*(pl.program_id(axis) for axis in range(len(grid))), *early)
            written = jax.tree.unflatten(out_structure, rest[: len(outs)])
            kernel(place, inputs, written, rest[len(outs) :])

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
                in_specs=jax.tree.leaves(self.specs(x, at)),
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

    def gradient(self, x: Inputs) -> Array:
        """[queries, e], over what dropout divides by: here it is less work than on a map."""
        gradient = x.gradient[...]
        if x.seed is None:
            return gradient
        return (gradient.astype(jnp.float32) / (1 - self.options.drop_rate)).astype(gradient.dtype)

    def drop(self, x: Inputs, at: At) -> Callable[[Array], Array]:
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


def lay_out(x: Operands, query_block: int, key_block: int) -> Inputs:
    """Operands as the kernels want them; columns that fill up a block see nothing.

    Returns:
      q, q2 [B, H, I, d]; k, k2 [B, K, J, d]; v [B, K, J, e]; lam f32[B, H, 1, I]; low, high and
      low2 i32[B, 1, I]; seed i32[B, H] and first i32[B] in scalar memory.
    """

    def heads_first(y: Any, block: int) -> Any:
        return None if y is None else fill(y.transpose(0, 2, 1, 3), 2, block)

    def span(y: Array) -> Array:
        return fill(y[:, None], 2, query_block)

    lam = None if x.lam is None else fill(x.lam.transpose(0, 2, 1)[:, :, None], 3, query_block)
    return Inputs(
        q=heads_first(x.q, query_block), q2=heads_first(x.q2, query_block),
        k=heads_first(x.k, key_block), k2=heads_first(x.k2, key_block),
        v=heads_first(x.v, key_block), lam=lam,
        low=span(x.low), high=span(x.high), low2=None if x.q2 is None else span(x.low2),
        seed=None if x.seed is None else x.seed.astype(jnp.int32),
        first=None if x.seed is None else x.first,
    )  # fmt: skip
