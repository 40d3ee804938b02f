"""Where the cells of a warping matrix are kept: a window along each of its anti-diagonals.

Cell (i, j), frame i of x against frame j of y, lies on the anti-diagonal d = i + j. Its three
predecessors lie on the two before, so all cells of an anti-diagonal are computed at once. Of each
the W cells i = start(d) .. start(d) + W - 1 are kept. From one anti-diagonal to the next the start
stays or moves by one; that alone, differing from row to row, is all there is to indices.

Letters besides those of `emojax.types`: I and J frames of x and y, n and m those that are real,
T = I + J - 1 anti-diagonals, W cells of each, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int


class Band(NamedTuple):
    """Attributes:
    n, m: real frames of x and y in each row; 0 where there are none.
    start: i of the first cell of each anti-diagonal.
    moved: whether the start is that of the anti-diagonal before, plus one.
    reach: half width of the band in frames of the shorter sequence.
    """

    n: Int[Array, " B"]
    m: Int[Array, " B"]
    start: Int[Array, "T B"]
    moved: Bool[Array, "T B"]
    reach: int

    @classmethod
    def of(cls, n: Array, m: Array, sizes: tuple[int, int], reach: int) -> Band:
        """Of rows with n and m real frames out of `sizes` = (I, J)."""
        d = jnp.arange(sum(sizes) - 1, dtype=jnp.int32)[:, None]
        # Least i with i (m - 1) - j (n - 1) >= -reach (longer - 1) and j = d - i, rounded up.
        whole = jnp.maximum(n + m - 2, 1)
        slack = reach * jnp.maximum(jnp.maximum(n, m) - 1, 0)
        start = -((slack - d * (n - 1)) // whole)
        start = jnp.maximum(jnp.maximum(start, d - m + 1), 0)
        before = jnp.concatenate([start[:1], start[:-1]])
        return cls(n, m, start, start > before, reach)

    def cells(self, d: Array, start: Array, width: int) -> tuple[Array, Array, Array]:
        """i, j and whether the cell is in the matrix and the band, each [..., W, B].

        Args:
          d: the anti-diagonals, broadcast against [..., W, B].
          start: [..., B], theirs.
        """
        n, m = self.n, self.m
        i = start[..., None, :] + jnp.arange(width, dtype=jnp.int32)[:, None]
        j = d - i
        inside = (i < n) & (j >= 0) & (j < m)
        slack = self.reach * (jnp.maximum(n, m) - 1)
        return i, j, inside & (i * (n + m - 2) - d * (n - 1) <= slack)

    def last(self, i: Array, j: Array, inside: Array) -> Array:
        """Whether a cell is that of both last frames."""
        return inside & (i == self.n - 1) & (j == self.m - 1)


def width_of(sizes: tuple[int, int], reach: int, masked: bool) -> int:
    """W: no anti-diagonal has more cells in the band, whatever the real lengths if `masked`."""
    if masked:
        return min(*sizes, 2 * reach + 1)
    return min(*sizes, 2 * reach * (max(sizes) - 1) // max(sum(sizes) - 2, 1) + 1)


def check(sizes: tuple[int, int], band: int | None) -> int:
    """The reach of a band that may be None, which is the whole matrix.

    Raises:
      ValueError: no frames, or a band through which there is no path.
    """
    if min(sizes) < 1:
        raise ValueError(f"sequences need room for a frame, not {sizes[0]} and {sizes[1]}")
    if band is None:
        band = max(sizes)
    if band < 1:
        raise ValueError(f"band is {band}: sequences of different lengths have no path below 1")
    reach = min(band, max(sizes))
    if (sum(sizes) + reach) * max(sizes) >= 2**31:
        raise ValueError(f"sequences of {sizes[0]} and {sizes[1]} frames are too long: cut them")
    return reach
