"""How operands lie in a GPU's memory, and what all of its kernels do alike.

Arrays stay as the model has them, heads after columns: a program reads its head with a stride.
Widths are filled up to powers of two and lengths to whole blocks, as Triton wants them. A program
is given whole rows and all heads that share a key, and loads the blocks that it wants.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from emojax.ops.diff_attention.kernels import Gradients, Inputs, dot, fill
from emojax.ops.diff_attention.problem import HIDDEN, Operands, Options
from emojax.ops.random import keep_pair

_LEAST = 16
"""The smallest side of a tensor core's product."""


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that a kernel writes, laid out by row and key head as the inputs are."""

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
    interpret: bool

    @property
    def query_blocks(self) -> int:
        return self.queries // self.query_block

    @property
    def key_blocks(self) -> int:
        return self.keys // self.key_block

    def of_query(self, width: int, dtype: Any) -> Output:
        """[B, I, H, width]; a program sees [I, G, width]."""
        shape = self.rows, self.queries, self.shared * self.group, width
        block = None, self.queries, self.group, width
        return Output(shape, dtype, pl.BlockSpec(block, lambda b, k, *_: (b, 0, k, 0)))

    def of_key(self, width: int, dtype: Any) -> Output:
        """[B, J, K, width]; a program sees [J, width]."""
        shape = self.rows, self.keys, self.shared, width
        block = None, self.keys, None, width
        return Output(shape, dtype, pl.BlockSpec(block, lambda b, k, *_: (b, 0, k, 0)))

    def of_vector(self) -> Output:
        """f32[B, H, I]; a program sees [G, I]."""
        shape = self.rows, self.shared * self.group, self.queries
        block = None, self.group, self.queries
        return Output(shape, jnp.float32, pl.BlockSpec(block, lambda b, k, *_: (b, k, 0)))

    def gradients(self, x: Inputs) -> Gradients:
        """Derivatives by everything, in the dtypes of what they are of."""
        return Gradients(
            v=self.of_key(x.v.shape[-1], x.v.dtype),
            lam=None if x.lam is None else self.of_vector(),
            q=tuple(self.of_query(q.shape[-1], q.dtype) for _, q, _, _ in x.maps()),
            k=tuple(self.of_key(k.shape[-1], k.dtype) for _, _, k, _ in x.maps()),
        )

    def specs(self, x: Inputs) -> Inputs:
        def query(array: Any) -> Any:
            return None if array is None else self.of_query(array.shape[-1], None).spec

        def key(array: Any) -> Any:
            return None if array is None else self.of_key(array.shape[-1], None).spec

        vector = self.of_vector().spec
        span = pl.BlockSpec((None, self.queries), lambda b, *_: (b, 0))
        return Inputs(
            q=query(x.q), q2=query(x.q2), gradient=query(x.gradient),
            k=key(x.k), k2=key(x.k2), v=key(x.v),
            lam=None if x.lam is None else vector,
            low=span, high=span, low2=None if x.low2 is None else span,
            seed=None if x.seed is None else pl.BlockSpec(
                (None, self.group), lambda b, k, *_: (b, k)
            ),
            first=None if x.first is None else pl.BlockSpec((1,), lambda b, *_: (b,)),
            peaks=tuple(vector for _ in x.peaks),
            factors=tuple(vector for _ in x.factors),
            common=tuple(vector for _ in x.common),
        )  # fmt: skip

    def run(
        self, kernel: Callable[..., None], x: Inputs, *,
        name: str, grid: Sequence[int], outputs: Any, met: Sequence[Array] = (),
    ) -> Any:  # fmt: skip
        """`kernel(inputs, outputs, *met)` for each (row, key head, ...) of the grid.

        Args:
          outputs: a tree of `Output`; the same tree of arrays is returned.
          met: i32[B, blocks] that tell which blocks meet; a program sees those of its row.
        """
        leaves, structure = jax.tree.flatten(x)
        outs, out_structure = jax.tree.flatten(outputs)

        def body(*refs: Any) -> None:
            inputs = jax.tree.unflatten(structure, refs[: len(leaves)])
            ranges = refs[len(leaves) : len(leaves) + len(met)]
            kernel(inputs, jax.tree.unflatten(out_structure, refs[-len(outs) :]), *ranges)

        wide = max(x.q.shape[-1], x.v.shape[-1]) > 64
        found = pl.pallas_call(
            body,
            out_shape=[jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outs],
            grid=tuple(grid),
            in_specs=[
                *jax.tree.leaves(self.specs(x)),
                *(pl.BlockSpec((None, y.shape[1]), lambda b, *_: (b, 0)) for y in met),
            ],
            out_specs=[out.spec for out in outs],
            compiler_params=triton.CompilerParams(num_warps=8 if wide else 4, num_stages=2),
            interpret=self.interpret,
            name=name,
        )(*leaves, *met)
        return jax.tree.unflatten(out_structure, found)

    def at_query(self, block: Any) -> Any:
        return pl.ds(block * self.query_block, self.query_block)

    def at_key(self, block: Any) -> Any:
        return pl.ds(block * self.key_block, self.key_block)

    def scores(self, q: Array, k: Array, low: Array, high: Array, key: Any) -> Array:
        """f32[queries, keys]; `HIDDEN` where a query may not look."""
        scores = dot(q, k, 1, 1) * self.options.scale
        column = key * self.key_block + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        seen = (column >= low[:, None]) & (column < high[:, None])
        return jnp.where(seen, scores, HIDDEN)

    def gradient(self, x: Inputs, here: Any, member: Any) -> Array:
        """[queries, e], over what dropout divides by: here it is less work than on a map."""
        gradient = x.gradient[here, member]
        if x.seed is None:
            return gradient
        return (gradient.astype(jnp.float32) / (1 - self.options.drop_rate)).astype(gradient.dtype)

    def drop(self, x: Inputs, member: Any, query: Any, key: Any) -> Callable[[Array], Array]:
        """What takes from a map, f32[queries, keys], the entries that dropout hits."""
        if x.seed is None:
            return lambda weights: weights
        shape = self.query_block, self.key_block
        rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        kept = keep_pair(
            x.seed[member], rows + x.first[0] + query * self.query_block,
            columns + key * self.key_block, self.options.drop_rate,
        )  # fmt: skip
        return lambda weights: jnp.where(kept, weights, 0)


def lay_out(x: Operands, query_block: int, key_block: int) -> Inputs:
    """Operands as the kernels want them; columns that fill up a block see nothing.

    Returns:
      q, q2 [B, I, H, d]; k, k2 [B, J, K, d]; v [B, J, K, e]; lam f32[B, H, I]; low, high and low2
      i32[B, I]; seed u32[B, H]; first i32[B].
    """

    def filled(y: Any, block: int) -> Any:
        return None if y is None else fill(fill(y, 1, block), 3, power_of_two(y.shape[3]))

    return Inputs(
        q=filled(x.q, query_block), q2=filled(x.q2, query_block),
        k=filled(x.k, key_block), k2=filled(x.k2, key_block), v=filled(x.v, key_block),
        lam=None if x.lam is None else fill(x.lam.transpose(0, 2, 1), 2, query_block),
        low=fill(x.low, 1, query_block), high=fill(x.high, 1, query_block),
        low2=None if x.q2 is None else fill(x.low2, 1, query_block),
        first=None if x.seed is None else x.first, seed=x.seed,
    )  # fmt: skip


def power_of_two(size: int) -> int:
    """The least power of two, at least what a product needs, that is no less than `size`."""
    return max(_LEAST, 1 << (size - 1).bit_length())
