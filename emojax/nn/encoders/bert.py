"""BERT (arXiv:1810.04805), the text encoder behind MiniLM and most sentence embeddings.

RoBERTa (arXiv:1907.11692) is the same network with one kind of token and its positions numbered
from `first_position`. T is the number of word pieces of a text, N a number of texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.layers import Dropout, LayerNorm, dense, dropout_key
from emojax.ops.random import dropout


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT.

    Attributes:
      vocabulary: word pieces it knows.
      width: D; heads must divide it.
      layers, heads: of the Transformer.
      feed_forward: width inside the feed-forward blocks.
      positions: rows of the table of positions.
      kinds: token types; a single text is of the first.
      epsilon: of the layer norms.
      first_position: row of the table that the first word piece takes, 0 but in RoBERTa.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    positions: int
    kinds: int
    epsilon: float
    first_position: int = 0

    @property
    def longest(self) -> int:
        """Most word pieces of a text."""
        return self.positions - self.first_position


class BertEncoder(nn.Module):
    """Word pieces to hidden states of every depth, the embeddings' first.

    Attributes:
      dropout: of the embeddings, of attention maps and behind every block, as in the paper; only
        with a `dropout` key.
      dtype: of the layers' arithmetic; parameters, norms and softmaxes are fp32.
    """

    config: BertConfig
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "N T"], present: Bool[Array, "N T"]
    ) -> list[Float[Array, "N T D"]]:
        """A text's word pieces come first in its row, padding behind them."""
        c = self.config

        def table(size: int, name: str) -> Array:
            init = nn.initializers.normal(0.02)
            return self.param(name, init, (size, c.width), jnp.float32)

        x = table(c.vocabulary, "words")[tokens]
        first = c.first_position
        x += table(c.positions, "positions")[first : first + tokens.shape[1]]
        x += table(c.kinds, "kinds")[0]
        x = LayerNorm(c.epsilon, name="norm")(x).astype(self.dtype)
        states = [Dropout(self.dropout)(x)]
        for depth in range(c.layers):
            layer = BertLayer(c, self.dropout, name=f"layer_{depth}")
            states.append(layer(states[-1], present))
        return states


class BertLayer(nn.Module):
    """Attention and feed-forward, each added and then normalised."""

    config: BertConfig
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T D"], present: Bool[Array, "N T"]
    ) -> Float[Array, "N T D"]:
        c, shape = self.config, x.shape
        heads = (*shape[:2], c.heads, -1)
        # One axis of word pieces: the gradient of a kernel is then one plain product, which XLA
        # does more than twice as fast on CPU.
        x = x.reshape(-1, c.width)
        query, key, value = (
            dense(c.width, x.dtype, name)(x).reshape(heads) for name in ("query", "key", "value")
        )
        # A row of padding alone attends to its padding: finite, and nobody reads it.
        seen = present | ~present.any(-1, keepdims=True)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
        scores = jnp.where(seen[:, None, None], scores.astype(jnp.float32), -jnp.inf)
        weights = jax.nn.softmax(scores).astype(x.dtype)
        if (drawn := dropout_key(self, self.dropout)) is not None:
            weights = dropout(weights, self.dropout, drawn)
        found = jnp.einsum("nhqk,nkhd->nqhd", weights, value).reshape(x.shape)
        found = dense(c.width, x.dtype, "attention_output")(found)
        x = LayerNorm(c.epsilon, name="attention_norm")(x + Dropout(self.dropout)(found))
        hidden = jax.nn.gelu(dense(c.feed_forward, x.dtype, "hidden")(x), approximate=False)
        found = dense(c.width, x.dtype, "output")(hidden)
        x = LayerNorm(c.epsilon, name="norm")(x + Dropout(self.dropout)(found))
        return x.reshape(shape)


def mean_over(
    states: Sequence[Float[Array, "N T D"]], chosen: Bool[Array, "N T"]
) -> Float[Array, "N features"]:
    """Means of hidden states over the chosen word pieces, those of each depth side by side."""
    weight = chosen / jnp.maximum(chosen.sum(-1, keepdims=True), 1)
    # fp32 sums whatever the states are.
    return jnp.concatenate(
        [jnp.einsum("nt,ntd->nd", weight, state.astype(jnp.float32)) for state in states], -1
    )
