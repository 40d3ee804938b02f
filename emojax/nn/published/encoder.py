"""The published encoder of audio and video."""

from __future__ import annotations

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config import RedifuAuthorsConfig
from emojax.nn.layers import Dropout, LayerNorm, dropout_key, gelu
from emojax.nn.published.layers import (
    BRANCHES,
    columns_within,
    linear,
    position_signal,
    within_root,
)
from emojax.nn.sharding import over_shards
from emojax.ops.diff_attention import differential_attention
from emojax.ops.random import seeds


class Encoder(nn.Module):
    """Audio's or video's way: position, change over time, gate, one differential layer."""

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        speaker: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        extent: Int[Array, " B"],
    ) -> Float[Array, "B L D"]:
        c, branch, width = self.config, BRANCHES[self.config.branch], x.shape[-1]
        p, z = self.enrich(x, speaker, extent)
        z = LayerNorm(1e-6, name="norm1")(z + self.attend(z, mask, extent))
        z = LayerNorm(1e-6, name="norm2")(z + self.feed_forward(z, Dropout(c.dropout)))
        y = p + branch.residual_scale * z
        return nn.sigmoid(linear(y, width, "out_gate")) * y

    # A dozen arrays of the size of x, cheaply made again in the backward pass: only products are
    # kept.
    @functools.partial(nn.remat, policy=jax.checkpoint_policies.dots_saveable)
    def enrich(self, x: Array, speaker: Array, extent: Array) -> tuple[Array, Array]:
        """Position and speaker p, and p gated against how x changes from utterance to utterance."""
        width, dtype = x.shape[-1], x.dtype
        p = Dropout(self.config.dropout)(
            position_signal(x, BRANCHES[self.config.branch].rotary) + speaker
        )

        start = within_root(3)
        taps = self.param("delta_kernel", start, (3, width), jnp.float32)
        bias = self.param("delta_bias", start, (width,), jnp.float32)
        strength = self.param("delta_scale", nn.initializers.ones, (), jnp.float32)
        inside = jnp.where(columns_within(extent, x.shape[1])[..., None], x, 0)
        around = jnp.pad(inside, ((0, 0), (1, 1), (0, 0)))
        change = sum(around[:, i : i + x.shape[1]] * taps[i].astype(dtype) for i in range(3))
        change = LayerNorm(1e-5, name="delta_norm")(change + bias.astype(dtype))
        gate = nn.sigmoid(linear(x, width, "delta_gate"))
        d = x + strength.astype(dtype) * gate * change

        u = LayerNorm(1e-5, name="gate_norm")(jnp.concatenate([p, d], -1))
        g = jnp.tanh(linear(u, width, "gate_hidden"))
        g = nn.sigmoid(linear(g, 1, "gate_score"))
        return p, LayerNorm(1e-6, name="pre_norm")(g * d + (1 - g) * p + p)

    def attend(self, z: Array, mask: Array, extent: Array) -> Array:
        c, width = self.config, z.shape[-1]
        q, k, v = rearrange(linear(z, 3 * width, "qkv"), "b l (n h d) -> n b l h d", n=3, h=c.heads)
        key = dropout_key(self, c.dropout)
        seed = None if key is None else seeds(key, len(z), c.heads)

        def attend(
            q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None
        ) -> Array:
            # Lambda scales the whole difference.
            return differential_attention(
                q, k, v, 1.0, segment=mask.astype(jnp.int32), rolled=extent,
                scale=1 / math.sqrt(width), drop_rate=c.dropout, seed=seed,
            )  # fmt: skip

        rows = ("batch", None, None, None)
        names = (rows, rows, rows, rows[:2], rows[:1], rows[:2])
        y = over_shards(attend, names, rows)(q, k, v, mask, extent, seed)
        strength = self.param("lambda", nn.initializers.constant(0.1), (), jnp.float32)
        y = rearrange(y, "b l h d -> b l (h d)") * strength.astype(z.dtype)
        return linear(y, width, "out")

    def feed_forward(self, z: Array, drop: Dropout) -> Array:
        width = z.shape[-1]
        h = linear(LayerNorm(1e-6, name="ff_norm")(z), width, "ff_in")
        scale = 2 * BRANCHES[self.config.branch].activation_scale
        h = scale * gelu(h, approximate=True)
        return z + drop(linear(drop(h), width, "ff_out"))
