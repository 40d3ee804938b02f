"""The published fusion of modalities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config import RedifuAuthorsConfig
from emojax.nn.layers import Dropout, gelu
from emojax.nn.published.layers import (
    BRANCHES,
    linear,
    product,
)
from emojax.nn.sharding import over_shards, partitioned
from emojax.ops.diff_attention import differential_attention


class Fusion(nn.Module):
    """One modality attends to the two others, mixes and transforms what it found.

    Everything after the attention treats each utterance alone, so it runs on the N real ones only.
    """

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        query: Float[Array, "B L D"],
        others: Sequence[Float[Array, "B L D"]],
        within: Bool[Array, "B L"],
        real: Callable[[Array], Array],
        place: Int[Array, " N"] | None,
    ) -> Float[Array, "N D"]:
        c, width, dtype = self.config, x.shape[-1], x.dtype
        heads = c.heads // BRANCHES[c.branch].fusion_head_divisor
        init = nn.initializers.xavier_uniform()
        shape = (width, 3 * width)
        qkv = self.param("qkv", partitioned(init, "embed", None), shape, jnp.float32)
        bias = self.param("out_bias", nn.initializers.zeros, (width,), jnp.float32)

        def split(y: Array) -> Array:
            return rearrange(y, "b l (h d) -> b l h d", h=heads)

        q = split(product(query, qkv[:, :width]))
        rows = ("batch", None, None, None)

        def look(q: Array, k: Array, v: Array, within: Array) -> Array:
            return differential_attention(
                q, k, v, segment=within.astype(jnp.int32), scale=math.sqrt(heads / width)
            )

        attention = over_shards(look, (rows, rows, rows, rows[:2]), rows)

        def attend(other: Array) -> Array:
            k, v = jnp.split(product(other, qkv[:, width:]), 2, axis=-1)
            return attention(q, split(k), split(v), within)

        first, second = map(attend, others)
        found = real(rearrange(first + second, "b l h d -> b l (h d)"))
        # The projection of a sum: its bias counts once for each modality attended to.
        found = linear(found, width, "out", use_bias=False)
        found += (len(others) * bias).astype(dtype)

        x = real(x)
        gate = nn.sigmoid(linear(jnp.concatenate([x, found], -1), width, "gate"))
        h = gate * x + (1 - gate) * found
        for layer in range(3):
            h = gelu(linear(h, 4 * width, f"mlp_{layer}"))
            h = Dropout(c.dropout)(h, place)
        return x + linear(h, width, "mlp_3")
