"""The published relation graph attention."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config import RedifuAuthorsConfig
from emojax.nn.layers import LayerNorm, dropout_key, gelu
from emojax.nn.published.layers import (
    linear,
    product,
)
from emojax.nn.sharding import partitioned
from emojax.ops.graph_attention import relation_gat

RELATION_WIDTH = 10


class GATLayer(nn.Module):
    """One layer of the published relation GAT: `heads` maps of the input, each normalised."""

    heads: int
    width: int
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L I"],
        table: Float[Array, "R E"],
        edges: Int[Array, "B L L"],
        within: Bool[Array, "B L"],
    ) -> Float[Array, "B L H D"]:
        init = nn.initializers.xavier_uniform()
        size = (x.shape[-1], self.heads * self.width)
        kernel = self.param("kernel", partitioned(init, "embed", None), size, jnp.float32)
        size = (2 * self.width + RELATION_WIDTH, 1)
        attention = self.param(
            "attention",
            lambda key, *_: jnp.stack(
                [init(k, size, jnp.float32)[:, 0] for k in jax.random.split(key, self.heads)]
            ),
            (self.heads, size[0]),
            jnp.float32,
        )
        source, target, relation = jnp.split(attention, [self.width, 2 * self.width], axis=-1)
        h = rearrange(product(x, kernel), "b l (h d) -> b l h d", h=self.heads)
        y = relation_gat(
            h, source.astype(self.dtype), target.astype(self.dtype), relation @ table.T, edges,
            within, drop_rate=self.drop_rate, key=dropout_key(self, self.drop_rate),
        )  # fmt: skip
        return LayerNorm(1e-5, (self.heads,), name="norm")(y)


class RelationGAT(nn.Module):
    """Two heads, then one layer over both, then a residual: LN(W gelu(GAT(x)) + b + x)."""

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(self, x: Array, table: Array, edges: Array, within: Array) -> Array:
        c = self.config
        options = (c.width, c.graph_dropout, jnp.dtype(c.dtype))
        heads = GATLayer(2, *options, name="heads")(x, table, edges, within)
        both = rearrange(gelu(heads), "b l h d -> b l (h d)")
        y = GATLayer(1, *options, name="out")(both, table, edges, within)[:, :, 0]
        y = linear(gelu(y), c.width, "project")
        return LayerNorm(1e-5, name="norm")(y + x)
