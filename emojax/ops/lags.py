"""How well two series agree when one is moved against the other, for many lags at once.

At lag k, frame t of x stands beside frame t + k of y: a positive lag is a y that comes later.
Letters: B rows, L frames, K lags.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.ops.warping import soft_dtw


def lagged_correlation(
    x: Float[Array, "B L"], y: Float[Array, "B L"], x_mask: Bool[Array, "B L"],
    y_mask: Bool[Array, "B L"], lags: tuple[int, int],
) -> tuple[Float[Array, "B K"], Float[Array, "B K"]]:  # fmt: skip
    """Pearson's correlation of what is there of both, at each lag from lags[0] to lags[1].

    All sums over pairs are products of spectra (Padfield 2012, masked normalised correlation), so
    the cost is that of six Fourier transforms, whatever the number of lags.

    Returns:
      The correlations, 0 where either series does not vary over the pairs, and how many pairs
      there are.

    Raises:
      ValueError: lags that are not in order, or longer than the series.
    """
    length = x.shape[1]
    _check(lags, length)
    x, y = _standard(x, x_mask), _standard(y, y_mask)
    size = length + max(abs(lags[0]), abs(lags[1]))
    powers = [jnp.stack([m.astype(x.dtype), z, z * z]) for z, m in ((x, x_mask), (y, y_mask))]
    of_x, of_y = (jnp.fft.rfft(each, size) for each in powers)
    products = jnp.stack(
        [of_x[i].conj() * of_y[j] for i, j in ((0, 0), (1, 0), (0, 1), (2, 0), (0, 2), (1, 1))]
    )
    found = jnp.fft.irfft(products, size)[..., jnp.arange(lags[0], lags[1] + 1) % size]
    count, sum_x, sum_y, square_x, square_y, product = found
    count = jnp.round(count)
    n = jnp.maximum(count, 1)
    spread_x, spread_y = square_x - sum_x**2 / n, square_y - sum_y**2 / n
    # Series of unit variance: less than this of it is the rounding of the transforms.
    varies = (spread_x > 1e-4 * n) & (spread_y > 1e-4 * n)
    scale = jnp.where(varies, spread_x * spread_y, 1)
    correlation = (product - sum_x * sum_y / n) * jax.lax.rsqrt(scale)
    return jnp.where(varies, jnp.clip(correlation, -1, 1), 0), count


@functools.partial(jax.jit, static_argnums=(4,), static_argnames=("gamma", "band"))
def lagged_soft_dtw(
    x: Float[Array, "B L"], y: Float[Array, "B L"], x_mask: Bool[Array, "B L"],
    y_mask: Bool[Array, "B L"], lags: tuple[int, int], *, gamma: float = 0.1, band: int = 1,
) -> Float[Array, "B K"]:  # fmt: skip
    """Soft-DTW distance per frame of what stands side by side at each lag.

    The band lets frames meet that are a little off: jitter and lags that change are forgiven,
    which correlation takes for noise. Each series is brought to mean 0 and deviation 1 first, and
    what is missing between frames is a line from one to the other.

    Args:
      gamma, band: see `soft_dtw`; gamma in variances.

    Raises:
      ValueError: lags that are not in order, or longer than the series.
    """
    length = x.shape[1]
    _check(lags, length)
    x, x_there = filled(_standard(x, x_mask), x_mask)
    y, y_there = filled(_standard(y, y_mask), y_mask)
    frame, lag = jnp.arange(length), jnp.arange(lags[0], lags[1] + 1)
    other = frame + lag[:, None]
    inside = (other >= 0) & (other < length)
    other = jnp.clip(other, 0, length - 1)
    both = inside & x_there[:, None] & y_there[:, other]
    rows = both.shape[:2]
    left = jnp.broadcast_to(x[:, None], both.shape).reshape(-1, length)
    right = y[:, other].reshape(-1, length)
    both = both.reshape(-1, length)
    cost = soft_dtw(left[..., None], right[..., None], both, both, gamma=gamma, band=band)
    count = both.sum(-1)
    return jnp.where(count > 0, cost / jnp.maximum(count, 1), jnp.inf).reshape(rows)


def filled(
    x: Float[Array, "B L"], mask: Bool[Array, "B L"]
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """Lines between the frames that are there, and where there is one: not before the first frame
    nor after the last."""
    length = x.shape[1]
    frame = jnp.broadcast_to(jnp.arange(length), x.shape)
    before = jax.lax.cummax(jnp.where(mask, frame, -1), axis=1)
    after = jax.lax.cummin(jnp.where(mask, frame, length), axis=1, reverse=True)
    there = (before >= 0) & (after < length)
    before, after = jnp.clip(before, 0, length - 1), jnp.clip(after, 0, length - 1)
    x = jnp.where(mask, x, 0)
    first, last = (jnp.take_along_axis(x, at, 1) for at in (before, after))
    share = (frame - before) / jnp.maximum(after - before, 1)
    return jnp.where(there, first + share * (last - first), 0), there


def _standard(x: Array, mask: Array) -> Array:
    """Mean 0 and deviation 1 over what is there, 0 elsewhere."""
    x = jnp.where(mask, x, 0)
    n = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    x = jnp.where(mask, x - x.sum(-1, keepdims=True) / n, 0)
    variance = jnp.square(x).sum(-1, keepdims=True) / n
    return jnp.where(variance > 0, x * jax.lax.rsqrt(jnp.where(variance > 0, variance, 1)), 0)


def _check(lags: tuple[int, int], length: int) -> None:
    low, high = lags
    if not -length < low <= high < length:
        raise ValueError(f"lags from {low} to {high} of series of {length} frames")
