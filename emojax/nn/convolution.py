"""Convolutions over the utterances of a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.layers import LayerNorm, dense
from emojax.nn.sharding import over_shards, with_neighbours


def neighbours(x: Array, segment: Array, before: int, after: int) -> Iterator[Array]:
    """[B, L, D], each column with its neighbour's, from `before` columns back to `after`
    ahead; zeros where that is no column of the same conversation."""
    length = x.shape[1]
    padded, labels = (with_neighbours(y, before, after) for y in (x, segment))
    for tap in range(before + after + 1):
        mine = labels[:, tap : tap + length] == segment
        yield jnp.where(mine[..., None], padded[:, tap : tap + length], 0)


class Convolution(nn.Module):
    """An affine map of each utterance and its neighbours: `taps` of them around it, or up to it."""

    features: int
    taps: int
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment: Int[Array, "B L"]
    ) -> Float[Array, "B L F"]:
        before = self.taps - 1 if self.causal else self.taps // 2
        around = neighbours(x, segment, before, self.taps - 1 - before)
        return dense(self.features, self.dtype, "kernel")(jnp.concatenate(list(around), -1))


class Delta(nn.Module):
    """x + scale sigmoid(gate(x)) LN(conv(x)): how a feature changes from utterance to utterance.

    A depthwise convolution over three utterances of the same conversation: before, now and after,
    or the last three if causal.
    """

    causal: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment: Int[Array, "B L"]
    ) -> Float[Array, "B L D"]:
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, width), jnp.float32)
        scale = self.param("scale", nn.initializers.constant(0.1), (), jnp.float32)
        before, after = (2, 0) if self.causal else (1, 1)

        def convolve(x: Array, segment: Array, kernel: Array) -> Array:
            change = jnp.zeros_like(x)
            for tap, shifted in enumerate(neighbours(x, segment, before, after)):
                change += shifted * kernel[tap].astype(self.dtype)
            return change

        columns = ("batch", "length", None)
        over = over_shards(convolve, (columns, columns[:2], (None, None)), columns)
        change = over(x, segment, kernel)
        gate = nn.sigmoid(dense(width, self.dtype, "gate")(x))
        return x + scale.astype(self.dtype) * gate * LayerNorm(name="norm")(change)
