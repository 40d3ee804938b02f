"""Relation-graph layer over utterance x modality nodes."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.attention import FeedForward
from emojax.nn.layers import Dropout, FusedDense, LayerNorm, dense, dropout_key
from emojax.nn.sharding import first_column, over_shards, partitioned, stream, whole_rows
from emojax.ops.masks import RELATIONS
from emojax.ops.random import Rate, seeds
from emojax.ops.relation_attention import relation_attention


class RelationGraphLayer(nn.Module):
    """Pre-norm layer whose attention runs along typed edges, weights shared by the modalities.

    Modality-specific subgraphs (own past and future, others' past and future, itself) and
    cross-modality subgraphs differ in the trainable embedding of their relation: for each ordered
    pair of modalities and relation code a vector with one entry a head.
    """

    heads: int
    window: int
    causal: bool
    cross_modal: str
    ratio: int
    drop_rate: Rate
    attention_drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L M D"],
        speaker: Int[Array, "B L"],
        segment: Int[Array, "B L"],
        present: Bool[Array, "B L M"],
    ) -> Float[Array, "B L M D"]:
        modalities, width = x.shape[2:]
        drop = Dropout(self.drop_rate)
        relation = self.param(
            "relation_embedding",
            partitioned(nn.initializers.normal(0.02), "heads", None, None, None),
            (self.heads, modalities, modalities, RELATIONS), jnp.float32,
        )  # fmt: skip
        qkv = FusedDense(3, width, self.dtype, name="qkv")(LayerNorm(name="attention_norm")(x))
        q, k, v = rearrange(qkv, "n b l m (h d) -> n b l m h d", h=self.heads)
        key = dropout_key(self, self.attention_drop_rate)
        # Of all rows and heads, so that what is dropped does not depend on who computes it.
        seed = None if key is None else seeds(key, x.shape[0], self.heads)

        def attend(
            q: Array, k: Array, v: Array, relation: Array, speaker: Array, segment: Array,
            present: Array, seed: Array | None,
        ) -> Array:  # fmt: skip
            k, v, speaker, segment, present = map(whole_rows, (k, v, speaker, segment, present))
            return relation_attention(
                q, k, v, relation, speaker, segment, present, window=self.window,
                causal=self.causal, cross_modal=self.cross_modal, first=first_column(q.shape[1]),
                drop_rate=self.attention_drop_rate, seed=seed,
            )  # fmt: skip

        nodes = ("batch", "length", None, "heads", None)
        names = (
            nodes, nodes, nodes, ("heads", None, None, None), ("batch", "length"),
            ("batch", "length"), ("batch", "length", None), ("batch", "heads"),
        )  # fmt: skip
        y = over_shards(attend, names, nodes)(q, k, v, relation, speaker, segment, present, seed)
        out = dense(width, self.dtype, "out", axes=("heads", "embed"))
        x = x + drop(stream(out(rearrange(y, "b l m h d -> b l m (h d)"))))
        feed_forward = FeedForward(self.ratio, self.drop_rate, self.dtype, name="feed_forward")
        return x + drop(feed_forward(LayerNorm(name="feed_forward_norm")(x)))
