"""How baselines make one of three modalities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from emojax.nn.layers import Dropout, dense, gelu
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.ops.random import Rate

_TINY = 1e-30


class Hidden(nn.Module):
    """Affine layers with a gelu and dropout behind each."""

    layers: int
    features: int
    drop_rate: Rate
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*axes D"]) -> Float[Array, "*axes F"]:
        for layer in range(self.layers):
            x = gelu(dense(self.features, self.dtype, f"layer_{layer}")(x))
            x = Dropout(self.drop_rate)(x)
        return x


class Decisions(nn.Module):
    """The logarithm of a mean of the modalities' probabilities, of those that are there.

    All count alike, or by a learned weight each. Where no modality is there, all classes are alike.
    """

    learned: bool

    @nn.compact
    def __call__(
        self, logits: Float[Array, "B L M C"], present: Bool[Array, "B L M"]
    ) -> Float[Array, "B L C"]:
        modalities = logits.shape[2]
        score = jnp.zeros(modalities)
        if self.learned:
            score = self.param("weight", nn.initializers.zeros, (modalities,), jnp.float32)
        weight = masked_softmax(jnp.broadcast_to(score, present.shape), present)
        mean = (weight[..., None] * nn.softmax(logits)).sum(2)
        return jnp.log(jnp.maximum(mean, _TINY))


class Scores(nn.Module):
    """f32[B, L, M] weights of the modalities of an utterance, 0 for what is missing, sum 1.

    A network scores each of them by what it says and by which modality it is.
    """

    dtype: Any

    @nn.compact
    def __call__(
        self, streams: Float[Array, "B L M D"], present: Bool[Array, "B L M"]
    ) -> Float[Array, "B L M"]:
        h = jnp.tanh(dense(streams.shape[-1], self.dtype, "hidden")(streams))
        bias = self.param("modality", nn.initializers.zeros, (streams.shape[2],), jnp.float32)
        score = dense(1, jnp.float32, "score")(h)[..., 0] + bias
        return masked_softmax(score, present)


class TensorProducts(nn.Module):
    """All products of one, two and three units of the modalities (TFN, arXiv:1707.07250)."""

    units: int
    dtype: Any

    @nn.compact
    def __call__(self, streams: Sequence[Float[Array, "B L D"]]) -> Float[Array, "B L F"]:
        text, audio, visual = (
            _with_one(gelu(dense(self.units, self.dtype, f"unit_{i}")(x)))
            for i, x in enumerate(streams)
        )
        products = jnp.einsum("bli,blj,blk->blijk", text, audio, visual)
        return products.reshape(*text.shape[:2], -1)


class LowRankProducts(nn.Module):
    """An affine map of those products whose kernel is a sum of `rank` outer products
    (LMF, arXiv:1806.00064): none of them is ever written out."""

    rank: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, streams: Sequence[Float[Array, "B L D"]]) -> Float[Array, "B L F"]:
        found: Any = 1.0
        for i, x in enumerate(streams):
            # Each product of three factors has the variance of one affine layer.
            init = nn.initializers.variance_scaling(1.0, "fan_in", "normal", in_axis=0, out_axis=2)
            kernel = self.param(
                f"factor_{i}", init, (x.shape[-1] + 1, self.rank, self.features), jnp.float32
            )
            found = found * jnp.einsum("bld,drf->blrf", _with_one(x), kernel.astype(self.dtype))
        init = nn.initializers.constant(self.rank**-0.5)
        weight = self.param("rank", init, (self.rank,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        return jnp.einsum("blrf,r->blf", found, weight.astype(self.dtype)) + bias.astype(self.dtype)


def _with_one(x: Array) -> Array:
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], -1)
