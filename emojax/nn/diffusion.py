"""Text-guided diffusion of audiovisual information into the text stream."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.attention import rotate
from emojax.nn.layers import Dropout, LayerNorm, dense
from emojax.nn.sharding import first_column, over_shards, partitioned, stream, whole_rows
from emojax.ops.diff_attention import differential_attention
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.ops.diffusion import diffuse
from emojax.ops.random import Rate


class TextGuidedDiffusion(nn.Module):
    """text + gate(text, z_K) z_K, with z_K audio and video diffused along text's own attention.

    z_0 is a gated mix of the audio and video that are present; T is the text's self-attention,
    each row over the conversation's utterances whose text is present, and itself. Without gates z_0
    is the mean of what is present and the text takes all of z_K.
    """

    heads: int
    steps: int
    causal: bool
    drop_rate: Rate
    dtype: Any
    gates: bool = True

    @nn.compact
    def __call__(
        self,
        streams: Float[Array, "B L M D"],
        present: Bool[Array, "B L M"],
        segment: Int[Array, "B L"],
        position: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]:
        width = streams.shape[-1]
        text = LayerNorm(name="text_norm")(streams[:, :, 0])
        others = LayerNorm(name="other_norm")(streams[:, :, 1:])

        score = jnp.zeros(others.shape[:-1], jnp.float32)
        if self.gates:
            score = dense(1, jnp.float32, "mix")(
                jnp.concatenate([others, jnp.broadcast_to(text[:, :, None], others.shape)], -1)
            )[..., 0]
        mix = masked_softmax(score, present[:, :, 1:])[..., None].astype(self.dtype)
        value = dense(width, self.dtype, "value", axes=("embed", "heads"))
        source = (mix * value(others)).sum(2)

        z = rearrange(source, "b l (h d) -> b l h d", h=self.heads)
        if self.steps > 0:
            zeros = partitioned(nn.initializers.zeros, "heads")
            restart = nn.sigmoid(self.param("restart", zeros, (self.heads,), jnp.float32))
            q, k = (
                rotate(
                    rearrange(
                        dense(width, self.dtype, name, axes=("embed", "heads"))(text),
                        "b l (h d) -> b l h d", h=self.heads,
                    ),
                    position,
                )
                for name in ("query", "key")
            )  # fmt: skip
            heads = ("batch", "length", "heads", None)
            names = (heads, heads, heads, ("heads",), ("batch", "length"), ("batch", "length"))
            spread = over_shards(self.spread, names, heads)
            z = spread(q, k, z, restart, segment, present[:, :, 0])
        out = dense(width, self.dtype, "out", axes=("heads", "embed"))
        z = stream(out(rearrange(z, "b l h d -> b l (h d)")))
        if self.gates:
            z *= nn.sigmoid(dense(width, self.dtype, "gate")(jnp.concatenate([text, z], -1)))
        return streams[:, :, 0] + Dropout(self.drop_rate)(z)

    def spread(
        self, q: Array, k: Array, source: Array, restart: Array, segment: Array, present: Array
    ) -> Float[Array, "B L H d"]:
        """The source diffused along the attention of q to the columns that are present."""
        first, k = first_column(q.shape[1]), whole_rows(k)
        segment, present = whole_rows(segment), whole_rows(present)

        def attend(z: Array) -> Array:
            return differential_attention(
                q, k, whole_rows(z), segment=segment, shown=present, first=first,
                causal=self.causal,
            )  # fmt: skip

        return diffuse(attend, source, restart, self.steps)
