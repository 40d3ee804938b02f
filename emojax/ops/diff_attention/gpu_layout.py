"""How operands lie in a GPU's memory, and what all of its kernels do alike.

Arrays stay as the model has them, heads after columns: a program reads its head with a stride.
Widths are filled up to powers of two and lengths to whole blocks, as Triton wants them. A program
is given whole rows and all heads that share a key, and loads the blocks that it wants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from emojax.ops.diff_attention.kernels import Division, Given, Output, dot, fill
from emojax.ops.diff_attention.problem import HIDDEN, Operands
from emojax.ops.random import keep_pair

_LEAST = 16
"""The smallest side of a tensor core's product."""


class Call(Division):
    """A problem on GPU; a program's place is its row and key head, whatever it computes there."""

    def lay_out(self, x: Operands) -> Operands:
        """See `Division.lay_out`.

        Returns:
          q, q2 [B, I, H, d]; k, k2 [B, J, K, d]; v [B, J, K, e]; lam f32[B, H, I]; low, high and
          low2 i32[B, I]; seed u32[B, H]; first i32[B].
        """

        def span(y: Array) -> Array:
            return fill(y, 1, self.query_block)

        query, key = self.query_block, self.key_block
        return Operands(
            q=_filled(x.q, query), q2=_filled(x.q2, query),
            k=_filled(x.k, key), k2=_filled(x.k2, key), v=_filled(x.v, key),
            lam=None if x.lam is None else fill(x.lam.transpose(0, 2, 1), 2, query),
            low=span(x.low), high=span(x.high), low2=None if x.q2 is None else span(x.low2),
            seed=x.seed, first=None if x.seed is None else x.first,
        )  # fmt: skip

    def lay_out_query(self, y: Array) -> Array:
        return _filled(y, self.query_block)

    def restore(self, y: Array, like: Any) -> Array:
        return y[:, : like.shape[1], :, : like.shape[3]]

    def restore_vector(self, y: Array, like: Any) -> Array:
        return y[:, :, : like.shape[1]].transpose(0, 2, 1)

    def total(self, y: Array) -> Array:
        return y.sum(-1).transpose(0, 2, 1)

    def of_query(self, width: int, dtype: Any, *where: Any) -> Output:
        """[B, I, H, width]; a program sees [I, G, width]."""
        shape = self.rows, self.queries, self.heads, width
        block = None, self.queries, self.group, width
        return Output(shape, dtype, pl.BlockSpec(block, lambda b, k, *_: (b, 0, k, 0)))

    def of_key(self, width: int, dtype: Any, *where: Any) -> Output:
        """[B, J, K, width]; a program sees [J, width]."""
        shape = self.rows, self.keys, self.shared, width
        block = None, self.keys, None, width
        return Output(shape, dtype, pl.BlockSpec(block, lambda b, k, *_: (b, 0, k, 0)))

    def of_vector(self, *where: Any) -> Output:
        """f32[B, H, I]; a program sees [G, I]."""
        shape = self.rows, self.heads, self.queries
        block = None, self.group, self.queries
        return Output(shape, jnp.float32, pl.BlockSpec(block, lambda b, k, *_: (b, k, 0)))

    def of_span(self, *where: Any) -> pl.BlockSpec:
        """[B, I]; a program sees [I]."""
        return pl.BlockSpec((None, self.queries), lambda b, *_: (b, 0))

    def of_seed(self) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.group), lambda b, k, *_: (b, k))

    def of_first(self) -> pl.BlockSpec:
        return pl.BlockSpec((1,), lambda b, *_: (b,))

    def run(
        self, kernel: Callable[..., None], x: Operands, given: Given | None, *,
        name: str, grid: Sequence[int], outputs: Any, met: Sequence[Array] = (),
    ) -> Any:  # fmt: skip
        """`kernel(operands, given, outputs, *met)` for each (row, key head, ...) of the grid.

        Args:
          outputs: a tree of `Output`; the same tree of arrays is returned.
          met: i32[B, blocks] that tell which blocks meet; a program sees those of its row.
        """
        leaves, structure = jax.tree.flatten((x, given))
        outs, out_structure = jax.tree.flatten(outputs)

        def body(*refs: Any) -> None:
            inputs = jax.tree.unflatten(structure, refs[: len(leaves)])
            ranges = refs[len(leaves) : len(leaves) + len(met)]
            kernel(*inputs, jax.tree.unflatten(out_structure, refs[-len(outs) :]), *ranges)

        wide = max(x.q.shape[-1], x.v.shape[-1]) > 64
        found = pl.pallas_call(
            body,
            out_shape=[jax.ShapeDtypeStruct(out.shape, out.dtype) for out in outs],
            grid=tuple(grid),
            in_specs=[
                *self.specs(x, given),
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

    def drop(self, x: Operands, member: Any, query: Any, key: Any) -> Callable[[Array], Array]:
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


def _filled(y: Any, block: int) -> Any:
    return None if y is None else fill(fill(y, 1, block), 3, power_of_two(y.shape[3]))


def power_of_two(size: int) -> int:
    """The least power of two, at least what a product needs, that is no less than `size`."""
    return max(_LEAST, 1 << (size - 1).bit_length())
