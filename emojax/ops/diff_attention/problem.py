"""What every implementation of the operator is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class Operands(NamedTuple):
    """Arrays of a differential attention over I queries and J keys; G = H / K heads share a key.

    Attributes:
      q, q2: [B, I, H, d]; `q2` is None with a single map.
      k, k2: [B, J, K, d]; `k2` is None with a single map.
      v: [B, J, K, e].
      lam: f32[B, I, H], or None with a single map.
      low, high: i32[B, I]; query i sees the keys low <= j < high.
      low2: i32[B, I]; where the second map's keys begin.
      first: i32[B]; the column of query 0 in its row.
      seed: u32[B, H] of the map dropout, or None.
      shown: bool[B, J]; other keys are seen by the query of their own column alone. None is all.
      rolled: i32[B]; the second map, which shares q, is that of keys rolled by one around so many
        columns. None is no such map; see `unrolled`.
    """

    q: Array
    k: Array
    v: Array
    lam: Any
    q2: Any
    k2: Any
    low: Any
    high: Any
    low2: Any
    first: Any
    seed: Any
    shown: Any = None
    rolled: Any = None

    @property
    def map_count(self) -> int:
        """The number of maps."""
        return 1 if self.q2 is None else 2

    def maps(self) -> Iterator[tuple[int, Any, Any, Any]]:
        """(number, queries, keys, where the keys of a query begin) of each map."""
        yield 0, self.q, self.k, self.low
        if self.q2 is not None:
            yield 1, self.q2, self.k2, self.low2

    def gradients(self, q: Any, k: Any, v: Any, lam: Any, q2: Any, k2: Any) -> Operands:
        """Derivatives by the arrays that have one, in the dtypes of the arrays."""
        found = Operands(q, k, v, lam, q2, k2, None, None, None, None, None)
        return Operands._make(
            g if g is None else g.astype(y.dtype) for g, y in zip(found, self, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class Options:
    """What is known when compiling.

    Attributes:
      scale: of the scores.
      drop_rate: of the combined map; 0 without a seed.
      window, causal: how far a query may see, in columns (None is no limit), and whether back only.
    """

    scale: float
    drop_rate: float
    window: int | None
    causal: bool

    @property
    def keep_rate(self) -> float:
        """The share of the combined map that dropout leaves."""
        return 1 - self.drop_rate


HIDDEN = -1e30
"""Score of a key that a query may not see. Finite, so no difference of two is NaN."""

FLOOR = -1e29
"""Least value of a row's largest score: exp(HIDDEN - FLOOR) is 0, so an empty row is all zeros."""


def unrolled(x: Operands) -> Operands:
    """The same, rolled keys written out as those of the second map."""
    if x.rolled is None:
        return x

    def roll(k: Array, extent: Array) -> Array:
        return jnp.concatenate([jax.lax.dynamic_slice_in_dim(k, extent - 1, 1), k[:-1]])

    return x._replace(q2=x.q, k2=jax.vmap(roll)(x.k, x.rolled), rolled=None)
