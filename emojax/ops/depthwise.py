"""Depthwise convolution of images: each channel by a small kernel of its own.

As a sum of shifted products: XLA's own grouped convolution on CPU goes channel by channel and takes
ten times as long and more (`python -m experiments.bench.encoders vision`).
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros before and after, of height and of width."""


def same_padding(size: tuple[int, int], kernel: int, stride: int) -> Padding:
    """What makes an output of ceil(size / stride), the odd zero behind (TensorFlow's rule)."""

    def along(length: int) -> tuple[int, int]:
        total = max(kernel - (length % stride or stride), 0)
        return total // 2, total - total // 2

    return along(size[0]), along(size[1])


def depthwise_convolution(
    x: Float[Array, "N rows columns D"],
    kernel: Float[Array, "k k D"],
    stride: int,
    padding: Padding,
) -> Float[Array, "N R C D"]:
    """y[n, r, c] = sum_ij kernel[i, j] x[n, stride r + i, stride c + j] of the padded x."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    taps, count, width = kernel.shape[0], x.shape[0], x.shape[-1]
    rows, columns = ((size - taps) // stride + 1 for size in x.shape[1:3])
    y = jnp.zeros((count, rows, columns, width), x.dtype)
    for i in range(taps):
        for j in range(taps):
            ends = (count, i + stride * (rows - 1) + 1, j + stride * (columns - 1) + 1, width)
            y += kernel[i, j] * lax.slice(x, (0, i, j, 0), ends, (1, stride, stride, 1))
    return y
