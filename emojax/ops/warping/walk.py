"""Along the anti-diagonals of a warping matrix and back, two of them in hand at a time.

Forwards, the value of each cell is its cost and the (soft) minimum of its predecessors' values.
Backwards, each cell hands its gradient on to its predecessors in the shares they have in that
minimum (Cuturi and Blondel 2017, algorithm 2, with shares in place of differences of values, whose
rounding they do not have). There is no index per cell: what lies side by side in a window stays so
or moves by one. Rows come last in every array, since that alone differs from row to row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from emojax.ops.warping.band import Band


class Window(NamedTuple):
    """The frames that meet on an anti-diagonal: x rising, y falling with the cell."""

    x: Float[Array, "D W B"]
    y: Float[Array, "D W B"]

    def ahead(self, moved: Array, into_x: Array, into_y: Array) -> Window:
        """One anti-diagonal on: in each row either x moves by a frame or y does."""
        x = jnp.concatenate([self.x[:, 1:], into_x[:, None]], 1)
        y = jnp.concatenate([into_y[:, None], self.y[:, :-1]], 1)
        return Window(jnp.where(moved, x, self.x), jnp.where(moved, self.y, y))

    def back(self, moved: Array, into_x: Array, into_y: Array) -> Window:
        """The inverse of `ahead`."""
        x = jnp.concatenate([into_x[:, None], self.x[:, :-1]], 1)
        y = jnp.concatenate([self.y[:, 1:], into_y[:, None]], 1)
        return Window(jnp.where(moved, x, self.x), jnp.where(moved, self.y, y))


def forward(
    x: Float[Array, "B I D"], y: Float[Array, "B J D"], band: Band, width: int, gamma: float,
    keep: bool,
) -> tuple[Float[Array, " B"], Any]:  # fmt: skip
    """Value of the last cell of each row, and if `keep`, of all cells [T, W, B], else None.

    Outside of the band values are infinite.

    Args:
      gamma: temperature of the minimum; 0 is the hard one.
    """

    def step(carry: tuple[Array, Array, Window, Array], now: tuple[Array, ...]):
        values, diagonal, window, found = carry
        d, start, moved, into_x, into_y = now
        window = window.ahead(moved, into_x, into_y)
        i, j, inside = band.cells(d, start, width)
        beside = _beside(values, moved)
        least = soft_minimum(_before(diagonal, moved), beside[:-1], beside[1:], gamma)
        cost = jnp.square(window.x - window.y).sum(0)
        values = cost + jnp.where((i == 0) & (j == 0), 0, least)
        values = jnp.where(inside, values, jnp.inf)
        found = found + jnp.where(band.last(i, j, inside), values, 0).sum(0)
        return (values, beside, window, found), values if keep else None

    outside = jnp.full((width + 1, len(x)), jnp.inf, x.dtype)
    first = x[:, :width].transpose(2, 1, 0)
    window = Window(first, jnp.zeros_like(first))
    d = jnp.arange(len(band.start), dtype=jnp.int32)
    into = frames(x, band.start + width - 1), frames(y, d[:, None] - band.start)
    carry = (outside[1:], outside, window, jnp.zeros(len(x), x.dtype))
    given = (d, band.start, band.moved, *into)
    (_, _, _, found), values = jax.lax.scan(step, carry, given)
    return found, values


def shares(values: Float[Array, "T W B"], band: Band, gamma: float) -> Float[Array, "T W B"]:
    """How much each cell's cost counts in the last cell's value."""

    def step(carry: tuple[Array, Array], now: tuple[Array, ...]):
        *left, here = _hand_on(carry, now)
        return tuple(left), here

    start, given = _from_the_end(values, band, gamma)
    return jax.lax.scan(step, start, given, reverse=True)[1]


def gradients(
    values: Float[Array, "T W B"], band: Band, gamma: float,
    x: Float[Array, "B I D"], y: Float[Array, "B J D"],
) -> tuple[Float[Array, "B I D"], Float[Array, "B J D"]]:  # fmt: skip
    """Derivatives of the last cell's value by x and y."""
    length, width, rows = values.shape

    def step(carry: tuple[tuple[Array, Array], Window, Window], now: tuple[Any, ...]):
        left, window, sums = carry
        given, into_x, into_y = now
        *near, here = _hand_on(left, given)
        # Frames outside of the sequences meet in cells that hand on nothing.
        each = jnp.where(here == 0, 0, 2 * here * (window.x - window.y))
        sums = Window(sums.x + each, sums.y - each)
        moved, none = given[0], jnp.zeros_like(into_x)
        out = jnp.where(moved, sums.x[:, -1], 0), jnp.where(moved, 0, sums.y[:, 0])
        window, sums = window.back(moved, into_x, into_y), sums.back(moved, none, none)
        return (tuple(near), window, sums), out

    start, given = _from_the_end(values, band, gamma)
    cell = band.start[-1] + jnp.arange(width, dtype=jnp.int32)[:, None]
    meeting = frames(x, cell), frames(y, length - 1 - cell)
    window = Window(*(each.swapaxes(0, 1) for each in meeting))
    # The frames that a window lost on its way ahead come back on its way back.
    d = jnp.arange(length, dtype=jnp.int32)[:, None]
    before = jnp.concatenate([band.start[:1], band.start[:-1]])
    into = frames(x, before), frames(y, d - before - width)
    carry = (start, window, jax.tree.map(jnp.zeros_like, window))
    (_, _, sums), (out_x, out_y) = jax.lax.scan(step, carry, (given, *into), reverse=True)
    # What left the windows on the way. At the start y has its first frame alone, which leaves too.
    row = jnp.arange(rows)
    by_x = jnp.zeros_like(x).at[row, band.start + width - 1].add(out_x.swapaxes(1, 2), mode="drop")
    by_y = jnp.zeros_like(y).at[row, d - band.start].add(out_y.swapaxes(1, 2), mode="drop")
    return by_x.at[:, :width].add(sums.x.transpose(2, 1, 0)), by_y


def soft_minimum(a: Array, b: Array, c: Array, gamma: float) -> Array:
    """-gamma log(e^(-a/gamma) + e^(-b/gamma) + e^(-c/gamma)), infinity where all are."""
    least = jnp.minimum(jnp.minimum(a, b), c)
    if gamma == 0:
        return least
    finite = jnp.where(jnp.isfinite(least), least, 0)
    a, b, c = (_exp((finite - each) / gamma) for each in (a, b, c))
    return jnp.where(jnp.isfinite(least), finite - gamma * jnp.log(a + b + c), jnp.inf)


def portions(a: Array, b: Array, c: Array, gamma: float) -> tuple[Array, Array, Array]:
    """Derivatives of the minimum by each; all zero where all are infinite."""
    least = jnp.minimum(jnp.minimum(a, b), c)
    some = jnp.isfinite(least)
    if gamma == 0:  # of equals the first
        first, second = some & (a == least), some & (a != least) & (b == least)
        third = some & ~first & ~second
        return first.astype(a.dtype), second.astype(a.dtype), third.astype(a.dtype)
    finite = jnp.where(some, least, 0)
    a, b, c = (_exp((finite - z) / gamma) for z in (a, b, c))
    total = jnp.where(some, a + b + c, 1)
    return a / total, b / total, c / total


def _exp(x: Array) -> Array:
    """e^x, 0 below the root of the smallest normal number.

    Products of two such are normal: those that are not take a processor a hundred times as long.
    """
    least = 0.5 * float(np.log(jnp.finfo(x.dtype).tiny))
    return jnp.where(x > least, jnp.exp(jnp.maximum(x, least)), 0)


def frames(z: Float[Array, "B I D"], at: Array) -> Float[Array, "T D B"]:
    """Of each row the frames at[T, B]; the nearest where there is none."""
    at = jnp.clip(at, 0, z.shape[1] - 1)
    return jnp.take_along_axis(z, at.T[..., None], 1).transpose(1, 2, 0)


def _hand_on(carry: tuple[Array, ...], now: tuple[Array, ...]) -> tuple[Array, ...]:
    """What one anti-diagonal hands on to the two before, and its own shares, now complete."""
    here, far = carry
    moved, last, diagonal, up, left = now
    here = here + last
    here = jnp.where(here > jnp.finfo(here.dtype).tiny ** 0.5, here, 0)
    near = _pad(here * up, 0, 1) + _pad(here * left, 1, 0) + far
    far = here * diagonal
    far = jnp.where(moved, _pad(far, 1, 0), _pad(far, 0, 1))
    return jnp.where(moved, near[:-1], near[1:]), far, here


def _from_the_end(
    values: Float[Array, "T W B"], band: Band, gamma: float
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    """Carry and inputs of `_hand_on`: all exponentials at once, which is faster than in a walk."""
    length, width, rows = values.shape
    far = jnp.pad(values, ((2, 0), (0, 0), (0, 0)), constant_values=jnp.inf)
    moved_before = jnp.concatenate([band.moved[:1], band.moved[:-1]])
    beside = _beside(far[1:-1], band.moved)
    before = _before(_beside(far[:-2], moved_before), band.moved)
    portion = portions(before, beside[:, :-1], beside[:, 1:], gamma)
    d = jnp.arange(length, dtype=jnp.int32)[:, None, None]
    last = band.last(*band.cells(d, band.start, width))
    nothing = jnp.zeros((width + 1, rows), values.dtype)
    return (nothing[1:], nothing), (band.moved, last, *portion)


def _beside(values: Float[Array, "*T W B"], moved: Array) -> Float[Array, "*T W1 B"]:
    """The anti-diagonal before, so that entry p is above cell p and entry p + 1 to its left."""
    margins = [(0, 0)] * (values.ndim - 2) + [(1, 1), (0, 0)]
    wide = jnp.pad(values, margins, constant_values=jnp.inf)
    return _before(wide, moved)


def _before(beside: Float[Array, "*T W1 B"], moved: Array) -> Float[Array, "*T W B"]:
    """What was `_beside` one anti-diagonal ago, so that entry p is diagonally before cell p."""
    return jnp.where(moved[..., None, :], beside[..., 1:, :], beside[..., :-1, :])


def _pad(x: Array, before: int, after: int) -> Array:
    return jnp.pad(x, ((before, after), (0, 0)))
