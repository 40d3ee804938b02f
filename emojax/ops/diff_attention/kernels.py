"""What the kernels of all platforms share: their inputs, and which blocks meet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emojax.ops.diff_attention.problem import Options


class Inputs(NamedTuple):
    """Operands of the whole problem, or their block specifications, or what a program sees of them.

    The first eleven are those of `Operands`, laid out as the platform wants them.

    Attributes:
      gradient: by the result, in the backward pass.
      peaks, factors, common: of each map and query, in the backward pass: what makes scores a map,
        exp(score - peak) factor, and the sum over keys of the map times its own derivative.
    """

    q: Any
    k: Any
    v: Any
    lam: Any
    q2: Any
    k2: Any
    low: Any
    high: Any
    low2: Any
    first: Any
    seed: Any
    gradient: Any = None
    peaks: tuple[Any, ...] = ()
    factors: tuple[Any, ...] = ()
    common: tuple[Any, ...] = ()

    @property
    def map_count(self) -> int:
        """The number of maps."""
        return 1 if self.q2 is None else 2

    def maps(self) -> Iterator[tuple[int, Any, Any, Any]]:
        """(number, queries, keys, where the keys of a query begin) of each map."""
        yield 0, self.q, self.k, self.low
        if self.q2 is not None:
            yield 1, self.q2, self.k2, self.low2


class Gradients(NamedTuple):
    """Derivatives by v, lam, and the queries and keys of each map; or what they are written to."""

    v: Any
    lam: Any
    q: tuple[Any, ...]
    k: tuple[Any, ...]


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


def reach(
    low: Array, high: Array, query_block: int, key_block: int, key_blocks: int
) -> tuple[Array, Array]:
    """i32[B, query blocks]: the first and the last block of keys that a block of queries sees.

    A block that sees nothing has a last before its first. `low` and `high` are i32[B, I].
    """
    low, high = (y.reshape(len(y), -1, query_block) for y in (low, high))
    sees = high > low
    first = jnp.where(sees, low, key_block * key_blocks).min(-1) // key_block
    last = (jnp.where(sees, high, 0).max(-1) - 1) // key_block
    return jnp.minimum(first, key_blocks - 1), last


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
