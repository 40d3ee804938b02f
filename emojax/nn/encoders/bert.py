"""BERT (arXiv:1810.04805), the text encoder behind MiniLM and most sentence embeddings.

T is the number of word pieces of a text, N a number of texts.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.layers import LayerNorm, dense


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT.

    Attributes:
      vocabulary: word pieces it knows.
      width: D; heads must divide it.
      layers, heads: of the Transformer.
      feed_forward: width inside the feed-forward blocks.
      positions: most word pieces of a text.
      kinds: token types; a single text is of the first.
      epsilon: of the layer norms.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    kinds: int
    epsilon: float


class BertEncoder(nn.Module):
    """Word pieces to hidden states of every depth, the embeddings' first."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "N T"], present: Bool[Array, "N T"]
    ) -> Float[Array, "N T depths D"]:
        c = self.config

        def table(size: int, name: str) -> Array:
            init = nn.initializers.normal(0.02)
            return self.param(name, init, (size, c.width), jnp.float32)

        x = table(c.vocabulary, "words")[tokens]
        x += table(c.positions, "positions")[: tokens.shape[1]] + table(c.kinds, "kinds")[0]
        states = [LayerNorm(c.epsilon, name="norm")(x)]
        for depth in range(c.layers):
            states.append(BertLayer(c, name=f"layer_{depth}")(states[-1], present))
        return jnp.stack(states, axis=2)


class BertLayer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    config: BertConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T D"], present: Bool[Array, "N T"]
    ) -> Float[Array, "N T D"]:
        c, heads = self.config, (*x.shape[:2], self.config.heads, -1)
        query, key, value = (
            dense(c.width, x.dtype, name)(x).reshape(heads) for name in ("query", "key", "value")
        )
        # A row of padding alone attends to its padding: finite, and nobody reads it.
        seen = present | ~present.any(-1, keepdims=True)
        found = jax.nn.dot_product_attention(query, key, value, mask=seen[:, None, None])
        x = LayerNorm(c.epsilon, name="attention_norm")(
            x + dense(c.width, x.dtype, "attention_output")(found.reshape(x.shape))
        )
        hidden = jax.nn.gelu(dense(c.feed_forward, x.dtype, "hidden")(x), approximate=False)
        return LayerNorm(c.epsilon, name="norm")(x + dense(c.width, x.dtype, "output")(hidden))


def mean_of_last(
    states: Float[Array, "N T depths D"], present: Bool[Array, "N T"], depths: int
) -> Float[Array, "N features"]:
    """Means over a text's word pieces of the last `depths` hidden states, side by side."""
    weight = present[:, :, None, None] / jnp.maximum(present.sum(-1), 1)[:, None, None, None]
    means = (states[:, :, -depths:] * weight).sum(1)
    return means.reshape(len(means), -1)
