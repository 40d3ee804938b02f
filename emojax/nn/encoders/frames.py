"""From the frames of an utterance to one vector: a recurrent network for what lasts a few frames.

U is a number of utterances, T of frames, those behind an utterance's last present frame being
padding. Padding changes no output, whatever is in it.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.nn.encoders.mobilenet import MobileNet, MobileNetConfig, pooled
from emojax.nn.layers import LayerNorm, dense
from emojax.nn.recurrent import Recurrent


class FrameEncoder(nn.Module):
    """Features of frames, and how they change, through a recurrent network; then mean and maximum.

    The mean tells what lasts and the maximum what came up once, such as an expression of a few
    frames. A frame that is missing in between (no face was found) keeps its place in time and has a
    learned vector in place of its features.
    """

    features: int
    cell: Literal["lstm", "gru"] = "gru"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "U T D"], present: Bool[Array, "U T"]
    ) -> Float[Array, "U F"]:
        """Zeros for an utterance without any frame."""
        mask = present[..., None]
        x = jnp.where(mask, x, 0).astype(self.dtype)
        # From the frame before, where both are there.
        both = mask[:, 1:] & mask[:, :-1]
        change = jnp.pad(jnp.where(both, x[:, 1:] - x[:, :-1], 0), ((0, 0), (1, 0), (0, 0)))
        inputs = dense(self.features, self.dtype, "frame")(jnp.concatenate([x, change], -1))
        missing = self.param("missing", nn.initializers.zeros, (self.features,), jnp.float32)
        inputs = LayerNorm(name="norm")(jnp.where(mask, inputs, missing.astype(self.dtype)))
        # The network starts anew where padding ends, from either side.
        inside = jnp.flip(jnp.cumsum(jnp.flip(present, 1), 1), 1) > 0
        states = Recurrent(self.cell, self.features, False, self.dtype, name="recurrent")(
            inputs, inside.astype(jnp.int32)
        )
        return dense(self.features, self.dtype, "output", use_bias=False)(
            pooled_over_frames(states, present)
        )


class FaceEncoder(nn.Module):
    """Face crops to one vector of an utterance, trainable from the pixels on."""

    features: int
    mobilenet: MobileNetConfig = MobileNetConfig()
    cell: Literal["lstm", "gru"] = "gru"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, frames: Float[Array, "U T rows columns 3"], present: Bool[Array, "U T"]
    ) -> Float[Array, "U F"]:
        """Of RGB in [-1, 1]."""
        flat = jnp.where(present[..., None, None, None], frames, 0)
        maps = MobileNet(self.mobilenet, self.dtype, name="mobilenet")(
            flat.reshape(-1, *flat.shape[2:])
        )
        found = pooled(maps).reshape(*present.shape, -1)
        return FrameEncoder(self.features, self.cell, self.dtype, name="frames")(found, present)


def pooled_over_frames(
    x: Float[Array, "U T D"], present: Bool[Array, "U T"]
) -> Float[Array, "U 2*D"]:
    """Mean and maximum over the present frames, side by side; zeros where there is none."""
    mask = present[..., None]
    count = mask.sum(1)
    mean = jnp.where(mask, x, 0).sum(1) / jnp.maximum(count, 1).astype(x.dtype)
    most = jnp.where(mask, x, -jnp.inf).max(1, initial=-jnp.inf)
    return jnp.concatenate([mean, jnp.where(count > 0, most, 0)], -1)
