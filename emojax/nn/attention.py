"""Differential self-attention and the Transformer layer around it."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.layers import Dropout, LayerNorm, dense, dropout_key, gelu
from emojax.nn.sharding import (
    first_column,
    over_shards,
    partitioned,
    stream,
    whole_rows,
)
from emojax.ops.diff_attention import differential_attention
from emojax.ops.random import Rate, seeds


def rotate(x: Float[Array, "B L H d"], position: Int[Array, "B L"]) -> Float[Array, "B L H d"]:
    """Rotary position embedding (arXiv:2104.09864): products depend on differences of position."""
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-jnp.arange(half, dtype=jnp.float32) / max(half, 1))
    angle = position[..., None, None].astype(jnp.float32) * rate
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


class DifferentialAttention(nn.Module):
    """Multi-head self-attention with a second map that is subtracted.

    `temporal`: the second map is that of keys one step earlier, lambda per head. `dual`: Diff
    Transformer (arXiv:2410.05258), two query/key groups of half the head width, lambda from four
    vectors, a norm per head. `v2`: two queries per key, lambda per token and head from a gate.
    `none`: plain attention. Keys and values may be those of another `source`. Where lambda starts
    may be told, else it is what `lambda_start` says.
    """

    heads: int
    variant: str
    causal: bool
    drop_rate: float
    depth: int
    dtype: Any
    lambda_init: Any = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        segment: Int[Array, "B L"],
        position: Int[Array, "B L"],
        source: Float[Array, "B L D"] | None = None,
    ) -> Float[Array, "B L D"]:
        width, heads = x.shape[-1], self.heads
        source = x if source is None else source

        def project(name: str, features: int, groups: int = 1) -> list[Array]:
            of = x if name == "query" else source
            y = dense(features, self.dtype, name, axes=("embed", "heads"), use_bias=False)(of)
            return list(rearrange(y, "b l (h g d) -> g b l h d", h=heads, g=groups))

        def turned(name: str, features: int, groups: int = 1) -> list[Array]:
            return [rotate(y, position) for y in project(name, features, groups)]

        lam: Array | None = None
        q2: Array | None = None
        k2: Array | None = None
        if self.variant == "dual":
            (q, q2), (k, k2) = (turned(name, width, 2) for name in ("query", "key"))
            lam = self.dual_lambda(width // heads // 2)
        elif self.variant == "v2":
            (q, q2), (k,) = turned("query", 2 * width, 2), turned("key", width)
            k2 = k
            gate = dense(heads, jnp.float32, "lambda", axes=("embed", "heads"))
            lam = nn.sigmoid(gate(x.astype(jnp.float32)))
        else:
            (q,), (k,) = turned("query", width), turned("key", width)
            if self.variant == "temporal":
                half = partitioned(nn.initializers.constant(self.lambda_start), "heads")
                lam = self.param("lambda", half, (heads,), jnp.float32)
        (v,) = project("value", width)
        y = self.attend(q, k, v, lam, q2, k2, segment)
        if self.variant == "dual":
            y = self.head_norm(y) * (1 - self.lambda_start)
        y = rearrange(y, "b l h d -> b l (h d)").astype(self.dtype)
        out = dense(width, self.dtype, "out", axes=("heads", "embed"), use_bias=False)
        return stream(out(y))

    def attend(
        self, q: Array, k: Array, v: Array, lam: Array | None, q2: Array | None, k2: Array | None,
        segment: Array,
    ) -> Float[Array, "B L H e"]:  # fmt: skip
        """The operator, on each device's rows, queries and heads."""
        key = dropout_key(self, self.drop_rate)
        # Of all rows and heads, so that what is dropped does not depend on who computes it.
        seed = None if key is None else seeds(key, q.shape[0], self.heads)

        def attend(
            q: Array, k: Array, v: Array, lam: Array | None, q2: Array | None, k2: Array | None,
            segment: Array, seed: Array | None,
        ) -> Array:  # fmt: skip
            k2 = None if k2 is None else whole_rows(k2)
            return differential_attention(
                q, whole_rows(k), whole_rows(v), lam, q2=q2, k2=k2, segment=whole_rows(segment),
                first=first_column(q.shape[1]),
                causal=self.causal, drop_rate=self.drop_rate, seed=seed,
            )  # fmt: skip

        heads = ("batch", "length", "heads", None)
        of_lambda = () if lam is None else ("batch", "length", "heads")[3 - lam.ndim :]
        names = (
            heads, heads, heads, of_lambda, heads, heads, ("batch", "length"), ("batch", "heads")
        )  # fmt: skip
        return over_shards(attend, names, heads)(q, k, v, lam, q2, k2, segment, seed)

    @property
    def lambda_start(self) -> float | Array:
        """Of `dual` it also scales what the head norm lets through, for good."""
        if self.lambda_init is not None:
            return self.lambda_init
        return 0.8 - 0.6 * math.exp(-0.3 * self.depth) if self.variant == "dual" else 0.5

    def dual_lambda(self, width: int) -> Float[Array, ""]:
        vectors = self.param("lambda", nn.initializers.normal(0.1), (4, width), jnp.float32)
        return (
            jnp.exp(vectors[0] @ vectors[1]) - jnp.exp(vectors[2] @ vectors[3]) + self.lambda_start
        )

    def head_norm(self, y: Float[Array, "B L H d"]) -> Float[Array, "B L H d"]:
        scale = self.param("head_scale", nn.initializers.ones, y.shape[-1:], jnp.float32)
        y = y.astype(jnp.float32)
        return y * scale / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-5)


class FeedForward(nn.Module):
    """Two affine layers with an exact gelu between them."""

    ratio: int
    drop_rate: Rate
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes D"]:
        width = x.shape[-1]
        h = dense(self.ratio * width, self.dtype, "in", axes=("embed", "mlp"))(x)
        h = Dropout(self.drop_rate)(gelu(stream(h, "mlp")))
        return stream(dense(width, self.dtype, "out", axes=("mlp", "embed"))(h))


class DifferentialLayer(nn.Module):
    """Pre-norm Transformer layer: x + attention(LN x), then x + feed-forward(LN x).

    With a `source`, queries of x look at keys and values of LN source: cross-modal attention.
    """

    heads: int
    variant: str
    causal: bool
    ratio: int
    drop_rate: Rate
    attention_drop_rate: float
    depth: int
    dtype: Any
    lambda_init: Any = None

    @nn.compact
    def __call__(
        self, x: Array, segment: Array, position: Array, source: Array | None = None
    ) -> Array:
        drop = Dropout(self.drop_rate)
        attention = DifferentialAttention(
            self.heads, self.variant, self.causal, self.attention_drop_rate, self.depth, self.dtype,
            self.lambda_init, name="attention",
        )  # fmt: skip
        if source is not None:
            source = LayerNorm(name="source_norm")(source)
        x = x + drop(attention(LayerNorm(name="attention_norm")(x), segment, position, source))
        feed_forward = FeedForward(self.ratio, self.drop_rate, self.dtype, name="feed_forward")
        return x + drop(feed_forward(LayerNorm(name="feed_forward_norm")(x)))
