"""Framing and windows."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

Window = Literal["hann", "hamming", "rectangular"]

_COSINE = {"hann": 0.5, "hamming": 0.54, "rectangular": 1.0}


def window(kind: Window, size: int) -> np.ndarray:
    """f32[size], periodic: the first of two equal ends is there, the second is not."""
    mean = _COSINE[kind]
    angle = 2 * np.pi * np.arange(size) / size
    return (mean - (1 - mean) * np.cos(angle)).astype(np.float32)


def frame_count(samples: Int[Array, "*axes"], hop: int) -> Int[Array, "*axes"]:
    """Frames of so many samples; none of no samples."""
    return jnp.where(samples > 0, 1 + samples // hop, 0)


def within(length: Int[Array, " N"], size: int) -> Bool[Array, "N size"]:
    """True where a place of a row is before the row's end."""
    return jnp.arange(size) < length[:, None]


def frames(
    x: Float[Array, "N S"], length: Int[Array, " N"], size: int, hop: int
) -> Float[Array, "N T size"]:
    """The `size` samples around each sample t hop, zeros beyond both ends; T = 1 + S // hop."""
    count = 1 + x.shape[1] // hop
    parts = math.ceil(size / hop)
    x = jnp.where(within(length, x.shape[1]), x, 0)
    before = size // 2
    after = max(0, (count + parts - 1) * hop - before - x.shape[1])
    x = jnp.pad(x, ((0, 0), (before, after)))[:, : (count + parts - 1) * hop]
    blocks = x.reshape(len(x), count + parts - 1, hop)
    # Neighbouring blocks side by side: copies of whole rows, where indices would be gathered.
    whole = jnp.concatenate([blocks[:, i : i + count] for i in range(parts)], -1)
    return whole[..., :size]
