"""What the fused kernels of all platforms share: what they are given, and how a map is divided."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jaxtyping import Float

from emojax.ops.diff_attention.problem import Operands, Options


class Saved(NamedTuple):
    """What the forward pass leaves to the backward pass, as the platform lays it out.

    Attributes:
      peaks, factors: of each map and query: exp(score - peak) factor is the map, over what dropout
        keeps.
      results: what was found, and what the second map found alone; empty where the backward pass
        sees whole rows and needs neither.
    """

    peaks: Any
    factors: Any
    results: Any = ()


class Given(NamedTuple):
    """What the backward pass is given besides the operands; or block specifications, or references.

    Attributes:
      gradient: by the result.
      peaks, factors: see `Saved`.
      common: of each map and query, where results were saved: the sum over keys of the map times
        its own derivative, times what dropout keeps.
    """

    gradient: Any
    peaks: Any
    factors: Any
    common: Any


class Gradients(NamedTuple):
    """Derivatives by v, lam, and the queries and keys of each map; or what they are written to."""

    v: Any
    lam: Any
    q: tuple[Any, ...]
    k: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Output:
    """An array that a kernel writes, or reads, and the block of it that a program sees."""

    shape: tuple[int, ...]
    dtype: Any
    spec: pl.BlockSpec


@dataclasses.dataclass(frozen=True)
class Division(abc.ABC):
    """A problem divided into blocks, all known when compiling.

    A platform says how arrays lie in its memory, and which block of them a program sees. `where` is
    whatever it needs to know of a program's place.

    Attributes:
      rows: B.
      shared, group: K key heads, each read by G heads.
      queries, keys: I and J, filled up to whole blocks.
      interpret: see `api.differential_attention`.
    """

    options: Options
    rows: int
    shared: int
    group: int
    queries: int
    keys: int
    query_block: int
    key_block: int
    interpret: Any

    @classmethod
    def of(
        cls, x: Operands, options: Options, query_block: int, key_block: int, interpret: Any
    ) -> Division:
        rows, length, heads = x.q.shape[:3]
        total, shared = x.k.shape[1:3]
        return cls(
            options=options,
            rows=rows,
            shared=shared,
            group=heads // shared,
            queries=length + -length % query_block,
            keys=total + -total % key_block,
            query_block=query_block,
            key_block=key_block,
            interpret=interpret,
        )

    @property
    def heads(self) -> int:
        return self.shared * self.group

    @property
    def query_blocks(self) -> int:
        return self.queries // self.query_block

    @property
    def key_blocks(self) -> int:
        return self.keys // self.key_block

    @abc.abstractmethod
    def lay_out(self, x: Operands) -> Operands:
        """Operands as the kernels want them; columns that fill up a block see nothing."""

    @abc.abstractmethod
    def lay_out_query(self, y: Float[Array, "B I H w"]) -> Array:
        """An array like queries, as the kernels have it."""

    @abc.abstractmethod
    def restore(self, y: Array, like: Any) -> Float[Array, "B N H w"]:
        """What a kernel wrote, laid out as `like` is."""

    @abc.abstractmethod
    def restore_vector(self, y: Array, like: Any) -> Float[Array, "B I H"]:
        """A number for each query and head, laid out as `like` is."""

    @abc.abstractmethod
    def total(self, y: Array) -> Array:
        """The sum over the width of an array like queries, both as the kernels have them."""

    @abc.abstractmethod
    def of_query(self, width: int, dtype: Any, *where: Any) -> Output:
        """An array like queries."""

    @abc.abstractmethod
    def of_key(self, width: int, dtype: Any, *where: Any) -> Output:
        """An array like keys."""

    @abc.abstractmethod
    def of_vector(self, *where: Any) -> Output:
        """A number for each query and head, in fp32."""

    @abc.abstractmethod
    def of_span(self, *where: Any) -> pl.BlockSpec:
        """A number for each query."""

    @abc.abstractmethod
    def of_seed(self) -> pl.BlockSpec: ...

    @abc.abstractmethod
    def of_first(self) -> pl.BlockSpec: ...

    def gradients(self, x: Operands, *where: Any) -> Gradients:
        """Derivatives by everything, in the dtypes and blocks of what they are of."""
        return Gradients(
            v=self.of_key(x.v.shape[-1], x.v.dtype, *where),
            lam=None if x.lam is None else self.of_vector(*where),
            q=tuple(self.of_query(q.shape[-1], q.dtype, *where) for _, q, _, _ in x.maps()),
            k=tuple(self.of_key(k.shape[-1], k.dtype, *where) for _, _, k, _ in x.maps()),
        )

    def specs(self, x: Operands, given: Given | None, *where: Any) -> list[pl.BlockSpec]:
        """The blocks of what a program reads, in the order of the leaves of `(x, given)`."""

        def query(y: Any) -> Any:
            return self.of_query(y.shape[-1], y.dtype, *where).spec

        def key(y: Any) -> Any:
            return self.of_key(y.shape[-1], y.dtype, *where).spec

        def vector(_: Any) -> Any:
            return self.of_vector(*where).spec

        def span(_: Any) -> Any:
            return self.of_span(*where)

        kinds = {
            "q": query, "q2": query, "k": key, "k2": key, "v": key, "lam": vector,
            "low": span, "high": span, "low2": span,
            "first": lambda _: self.of_first(), "seed": lambda _: self.of_seed(),
        }  # fmt: skip
        found = [kinds[name](y) for name, y in x._asdict().items() if y is not None]
        if given is not None:
            found.append(query(given.gradient))
            found += [vector(y) for y in jax.tree.leaves(given[1:])]
        return found

    def reach(self, x: Operands) -> tuple[Array, Array]:
        """i32[B, query blocks]: the first and the last block of keys that a block of queries sees.

        A block that sees nothing has a last before its first.
        """
        low, high = (y.reshape(self.rows, -1, self.query_block) for y in (x.low, x.high))
        sees = high > low
        first = jnp.where(sees, low, self.keys).min(-1) // self.key_block
        last = (jnp.where(sees, high, 0).max(-1) - 1) // self.key_block
        return jnp.minimum(first, self.key_blocks - 1), last


def dot(a: Array, b: Array, i: int, j: int) -> Array:
    """Sum over axis `i` of a and `j` of b, accumulated in fp32."""
    return jax.lax.dot_general(a, b, (((i,), (j,)), ((), ())), preferred_element_type=jnp.float32)


def fill(x: Any, axis: int, block: int) -> Any:
    """Zeros after the end of an axis, up to a multiple of `block`."""
    if x is None or x.shape[axis] % block == 0:
        return x
    spare = [(0, 0)] * x.ndim
    spare[axis] = (0, -x.shape[axis] % block)
    return jnp.pad(x, spare)


def backward_by_blocks(
    x: Operands, given: Given, division: Division, of_queries: Callable, of_keys: Callable
) -> Gradients:
    """Derivatives of a row that is gone through block by block.

    Args:
      of_queries: those by each map's queries, given which keys each block of queries sees.
      of_keys: those by each map's keys and by v, given which queries see each block of keys.
    """
    first, last = division.reach(x)
    q = of_queries(x, given, division, (first, last))
    k, v = of_keys(x, given, division, seen_by(first, last, division.key_blocks))
    lam = None if x.lam is None else -given.common[1] / division.options.keep_rate
    return Gradients(v, lam, q, k)


def seen_by(first: Array, last: Array, key_blocks: int) -> tuple[Array, Array]:
    """i32[B, key blocks]: the first and the last block of queries that see a block of keys."""
    key, query = jnp.arange(key_blocks), jnp.arange(first.shape[1])[:, None]
    sees = (first[:, :, None] <= key) & (key <= last[:, :, None])
    lowest = jnp.where(sees, query, first.shape[1] - 1).min(1)
    return lowest, jnp.where(sees, query, -1).max(1)


def most_steps(options: Options, block: int, other: int, blocks: int) -> int:
    """How many blocks of size `other` one of size `block` can meet, the window being what it is."""
    if options.window is None:
        return blocks
    span = block + options.window * (1 if options.causal else 2)
    return min(blocks, (span - 2) // other + 2)
