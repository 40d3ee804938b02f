"""Where the published models differ, positions, and affine layers that start as PyTorch's do."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.layers import dense
from emojax.nn.sharding import with_gathered


@dataclasses.dataclass(frozen=True)
class Branch:
    """Where the published IEMOCAP and MELD models differ (table of the specification)."""

    rotary: bool
    activation_scale: float
    residual_scale: float
    fusion_head_divisor: int
    head_reads_input: bool
    head_slope: float
    modality_weight: tuple[float, float, float]


BRANCHES = {
    "iemocap": Branch(True, 0.5, 0.5, 2, True, 0.01, (1.0, 1.0, 0.4)),
    "meld": Branch(False, 0.66, 1.0, 1, False, 0.0, (3.0, 1.0, 0.3)),
}


def columns_within(extent: Int[Array, " B"], length: int) -> Bool[Array, "B L"]:
    """Columns that belong to the published model's padded row."""
    return jnp.arange(length) < extent[:, None]


def position_signal(x: Float[Array, "B L D"], rotary: bool) -> Float[Array, "B L D"]:
    """Features turned by, or added to, sines and cosines of the column's index."""
    length, width = x.shape[1:]
    rate = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * rate
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    if not rotary:
        return x + rearrange(jnp.stack([sin, cos], -1), "l i two -> l (i two)")
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rearrange(turned, "b l i two -> b l (i two)")


def within_root(inputs: int) -> Callable[..., Array]:
    """PyTorch's initial values of affine and convolution layers: uniform in ±1 / sqrt(inputs)."""
    bound = inputs**-0.5
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


def linear(x: Float[Array, "*axes I"], features: int, name: str, **options: Any) -> Array:
    """An affine layer that starts where the published one does."""
    start = within_root(x.shape[-1])
    return dense(features, x.dtype, name, kernel_init=start, bias_init=start, **options)(x)


def product(x: Float[Array, "*axes D"], kernel: Float[Array, "D F"]) -> Float[Array, "*axes F"]:
    """x times a parameter whose rows are divided for storage."""

    return with_gathered(jnp.matmul, x, kernel.astype(x.dtype), "embed", None)
