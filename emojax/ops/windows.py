"""What lies within a window of each column, without a square of columns: cost grows with L w."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Int

from emojax.ops.masks import relation_codes, spans

_LEAST = 16
"""Columns of a block, if a row has as many: with fewer, neighbours are copied more than used."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """A row's I queries in n blocks of Q, each with the Q + before + after = W columns it reaches.

    If a block would reach the whole row anyway there is one block, and W is J. J may be a symbol of
    `jax.export`: then there are blocks, however many.
    """

    length: int
    total: int
    before: int
    after: int
    whole: bool

    @classmethod
    def of(cls, length: int, total: int, window: int, *, causal: bool = False) -> Windows:
        """For I = `length` queries of J = `total` columns."""
        before, after = window, 0 if causal else window
        whole = isinstance(total, int) and _size(before, after) + before + after >= total
        return cls(length, total, before, after, whole)

    @property
    def queries(self) -> int:
        """Q."""
        return self.length if self.whole else _size(self.before, self.after)

    @property
    def blocks(self) -> int:
        """n."""
        return 1 if self.whole else (self.length + self.queries - 1) // self.queries

    def split(self, x: Array) -> Array:
        """[I, ...] as [n, Q, ...], zeros at the end."""
        spare = self.blocks * self.queries - self.length
        x = jnp.pad(x, ((0, spare), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(self.blocks, self.queries, *x.shape[1:])

    def join(self, x: Array) -> Array:
        """What `split` did, undone."""
        return x.reshape(-1, *x.shape[2:])[: self.length]

    def reached(self, x: Array, first: int | Int[Array, ""]) -> Array:
        """[J, ...] as [n, W, ...]: what each block reaches, zeros beyond the row.

        Args:
          first: the column of query 0.
        """
        if self.whole:
            return x[None]
        size, halo = self.queries, self.before + self.after
        x = jnp.pad(x, ((self.before, 2 * size), *((0, 0),) * (x.ndim - 1)))
        x = _part(x, first, (self.blocks + 1) * size)
        x = x.reshape(self.blocks + 1, size, *x.shape[1:])
        # A block and the head of the next: no gather, and in the backward pass no scatter.
        return jnp.concatenate([x[:-1], x[1:, :halo]], axis=1)

    def columns(
        self, first: int | Int[Array, ""]
    ) -> tuple[Int[Array, "n Q 1"], Int[Array, "n 1 W"]]:
        """Columns of the row of queries, and of what they reach; some of these lie beyond it."""
        start = first + self.queries * jnp.arange(self.blocks, dtype=jnp.int32)[:, None, None]
        query = start + jnp.arange(self.queries, dtype=jnp.int32)[:, None]
        if self.whole:
            return query, jnp.arange(self.total, dtype=jnp.int32)[None, None]
        width = self.queries + self.before + self.after
        return query, start - self.before + jnp.arange(width, dtype=jnp.int32)

    def codes(
        self, speaker: Int[Array, " J"], segment: Int[Array, " J"], first: int | Int[Array, ""] = 0
    ) -> Int[Array, "n Q W"]:
        """Relation of each query to each column it reaches (`ops.masks`), 0 for no edge."""
        window, causal = self.before, self.after < self.before
        _, low, high = (x[0] for x in spans(segment[None], causal=causal, window=window))

        def of_query(x: Array) -> Array:
            x = _part(x, first, self.length)
            return self.split(x)[:, :, None]

        query, key = self.columns(first)
        visible = (key >= of_query(low)) & (key < of_query(high))
        same = of_query(speaker) == self.reached(speaker, first)[:, None]
        return jnp.where(visible, relation_codes(same, query - key), 0)


def _part(x: Array, first: int | Int[Array, ""], size: int) -> Array:
    if isinstance(first, int):
        return jax.lax.slice_in_dim(x, first, first + size)
    return jax.lax.dynamic_slice_in_dim(x, first, size)


def _size(before: int, after: int) -> int:
    """Q, where there are several blocks."""
    return max(_LEAST, before + after)
