"""Dynamic time warping (Sakoe and Chiba 1978) and its soft version (Cuturi and Blondel 2017).

Of two sequences of frames the cheapest way to walk through both in step: pairs of frames from
first to last, each a step on in one or both, at the squared distance of the pair. Soft-DTW
(arXiv:1703.01541) takes the soft minimum over all ways and is smooth everywhere.

Letters: B rows, I and J frames, D features, T = I + J - 1 anti-diagonals, W cells of each.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.warping import walk
from emojax.ops.warping.band import Band, check, width_of


class Alignment(NamedTuple):
    """Which pairs of frames belong together, kept for the cells of the band.

    Attributes:
      weight: how much the pair's cost counts in the distance; 0 for cells that are none. Of `dtw`
        1 along the path, of `soft_dtw` the expected path. Each anti-diagonal holds at most 1.
      i, j: the pair, counting real frames alone.
    """

    weight: Float[Array, "B T W"]
    i: Int[Array, "B T W"]
    j: Int[Array, "B T W"]


def dtw(
    x: Float[Array, "B I D"], y: Float[Array, "B J D"],
    x_mask: Bool[Array, "B I"] | None = None, y_mask: Bool[Array, "B J"] | None = None,
    *, band: int | None = None,
) -> Float[Array, " B"]:  # fmt: skip
    """Sum of squared distances along the best path of each row.

    Its gradient is that of the path found, of equals the one that prefers diagonal steps.

    Args:
      x_mask, y_mask: which frames are real, all if left out. The others are not there: neither
        they nor what stands in them, NaN included, have any influence.
      band: frames i and j may meet where |i (m - 1) - j (n - 1)| <= band (max(n, m) - 1) with n
        and m real frames: |i - j| <= band for equal lengths, and around the line from corner to
        corner, in frames of the shorter, for others. None is everywhere. Memory is O((I + J) band)
        for gradients, and O(I + J + band) without.

    Returns:
      The distance; 0, with gradient 0, where a row of x or y has no real frame.

    Raises:
      ValueError: no room for a frame, a band below 1, or more frames than indices can count.
    """
    return _distance(x, y, x_mask, y_mask, band, 0.0)


def soft_dtw(
    x: Float[Array, "B I D"], y: Float[Array, "B J D"],
    x_mask: Bool[Array, "B I"] | None = None, y_mask: Bool[Array, "B J"] | None = None,
    *, gamma: float = 1.0, band: int | None = None,
) -> Float[Array, " B"]:  # fmt: skip
    """-gamma log of the sum over paths of e^(-cost / gamma) (arXiv:1703.01541, equation 3).

    Below `dtw`, towards which it goes with gamma to 0, and negative if many paths are cheap.

    Args:
      gamma: temperature, in units of squared distance.

    See `dtw` for the others, what is returned and raised.
    """
    _positive(gamma)
    return _distance(x, y, x_mask, y_mask, band, gamma)


def alignment(
    x: Float[Array, "B I D"], y: Float[Array, "B J D"],
    x_mask: Bool[Array, "B I"] | None = None, y_mask: Bool[Array, "B J"] | None = None,
    *, gamma: float = 1.0, band: int | None = None,
) -> Alignment:  # fmt: skip
    """The derivative of `soft_dtw` by the cost of each pair: its chance to be on the path."""
    _positive(gamma)
    return _alignment(x, y, x_mask, y_mask, band, gamma)


def path(
    x: Float[Array, "B I D"], y: Float[Array, "B J D"],
    x_mask: Bool[Array, "B I"] | None = None, y_mask: Bool[Array, "B J"] | None = None,
    *, band: int | None = None,
) -> tuple[Int[Array, "B T"], Int[Array, "B T"], Bool[Array, "B T"]]:  # fmt: skip
    """The best path: i, j, and whether there is a pair, as a diagonal step skips an entry.

    Without a pair, i and j are -1. See `dtw` for the arguments.
    """
    found = _alignment(x, y, x_mask, y_mask, band, 0.0)
    on = found.weight > 0
    there = on.any(-1)
    i, j = (jnp.where(there, (on * each).sum(-1), -1) for each in (found.i, found.j))
    return i, j, there


def _positive(gamma: float) -> None:
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, not {gamma}; `dtw` is the limit at 0")


def _prepared(
    x: Array, y: Array, x_mask: Array | None, y_mask: Array | None, band: int | None
) -> tuple[int, int, Array, Array, Array, Array]:
    """Reach and width of the band; real frames of both and how many they are."""
    sizes = (x.shape[1], y.shape[1])
    reach = check(sizes, band)
    width = width_of(sizes, reach, not (x_mask is None is y_mask))
    x, n = _real(x, x_mask)
    y, m = _real(y, y_mask)
    return reach, width, x, y, n, m


def _distance(
    x: Array, y: Array, x_mask: Array | None, y_mask: Array | None, band: int | None, gamma: float
) -> Array:
    reach, width, *frames = _prepared(x, y, x_mask, y_mask, band)
    return _core(reach, width, gamma, *frames)


def _alignment(
    x: Array, y: Array, x_mask: Array | None, y_mask: Array | None, band: int | None, gamma: float
) -> Alignment:
    reach, width, x, y, n, m = _prepared(x, y, x_mask, y_mask, band)
    along = Band.of(n, m, (x.shape[1], y.shape[1]), reach)
    _, values = walk.forward(x, y, along, width, gamma, keep=True)
    weight = walk.shares(values, along, gamma)
    d = jnp.arange(len(along.start), dtype=jnp.int32)[:, None, None]
    i, j, inside = along.cells(d, along.start, width)
    weight = jnp.where(inside, weight, 0)
    return Alignment(*(z.transpose(2, 0, 1) for z in (weight, i, j)))


def _real(x: Array, mask: Array | None) -> tuple[Array, Array]:
    """The real frames of each row from its start, anything behind, and how many they are."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if mask is None:
        return x, jnp.full(len(x), x.shape[1], jnp.int32)
    x = jnp.where(mask[..., None], x, 0)
    # A running count in place of a sort, which takes longer than the warping itself.
    count = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    row, frame = jnp.indices(mask.shape, sparse=True)
    place = jnp.where(mask, count - 1, mask.shape[1])
    order = jnp.zeros_like(count).at[row, place].set(frame, mode="drop")
    return jnp.take_along_axis(x, order[..., None], 1), count[:, -1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _core(reach: int, width: int, gamma: float, x: Array, y: Array, n: Array, m: Array) -> Array:
    along = Band.of(n, m, (x.shape[1], y.shape[1]), reach)
    return walk.forward(x, y, along, width, gamma, keep=False)[0]


def _core_forward(
    reach: int, width: int, gamma: float, x: Array, y: Array, n: Array, m: Array
) -> tuple[Array, tuple[Any, ...]]:
    along = Band.of(n, m, (x.shape[1], y.shape[1]), reach)
    found, values = walk.forward(x, y, along, width, gamma, keep=True)
    return found, (x, y, n, m, values)


def _core_backward(
    reach: int, width: int, gamma: float, kept: tuple[Any, ...], seed: Array
) -> tuple[Any, ...]:
    x, y, n, m, values = kept
    along = Band.of(n, m, (x.shape[1], y.shape[1]), reach)
    by_x, by_y = walk.gradients(values, along, gamma, x, y)
    return seed[:, None, None] * by_x, seed[:, None, None] * by_y, None, None


_core.defvjp(_core_forward, _core_backward)
