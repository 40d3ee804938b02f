"""Recordings as they might have been: SpecAugment, other tempi and voices, mixtures.

Every function takes keys of its own and works on one utterance; `jax.vmap` makes it a batch's.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


def spec_augment(
    key: Array,
    x: Float[Array, "T F"],
    count: Int[Array, ""],
    *,
    frames: Float[Array, ""] | float,
    bands: Float[Array, ""] | float,
    masks: int = 2,
    fill: Float[Array, "#F"] | float = 0.0,
) -> Float[Array, "T F"]:
    """`masks` stretches of time and as many of frequency hidden (SpecAugment, arXiv:1904.08779).

    Widths are uniform from 0 to `frames` of the `count` real ones, and to `bands`; places are
    uniform where the whole stretch fits. No warping of time: see `resample`.

    Args:
      fill: what is seen instead.
    """
    time, band = jax.random.split(key)
    hidden = _stretches(time, x.shape[0], count, frames, masks)[:, None]
    hidden |= _stretches(band, x.shape[1], x.shape[1], bands, masks)[None]
    return jnp.where(hidden, fill, x)


def _stretches(
    key: Array, size: int, within: Array | int, widest: Array | float, masks: int
) -> Bool[Array, " size"]:
    of_width, of_start = jax.random.split(key)
    width = jax.random.uniform(of_width, (masks,)) * jnp.minimum(widest, within)
    start = jax.random.uniform(of_start, (masks,)) * (within - width)
    place = jnp.arange(size)[:, None] + 0.5
    return ((place >= start) & (place < start + width)).any(1)


def resample(
    x: Float[Array, "T F"], start: Array | float, step: Array | float, axis: int = 0
) -> Float[Array, "T F"]:
    """Values between places of an axis: new place i is old place start + i step.

    By straight lines; beyond both ends the last value stays. As a product with a matrix of two
    values a row, which an accelerator does faster than it gathers.
    """
    size = x.shape[axis]
    old = jnp.clip(start + jnp.arange(size) * step, 0, size - 1)
    weight = jnp.maximum(0, 1 - jnp.abs(old[:, None] - jnp.arange(size)))
    return weight @ x if axis == 0 else x @ weight.T


def mixed(x: Array, other: Array, share: Array) -> Array:
    """share x + (1 - share) other along the first axis (mixup, arXiv:1710.09412)."""
    share = share.reshape(-1, *[1] * (x.ndim - 1))
    return share * x + (1 - share) * other
