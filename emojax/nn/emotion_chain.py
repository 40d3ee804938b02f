"""Decisions that know how emotions persist and spread: a hidden Markov chain over the speakers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.sharding import first_column, over_shards, whole_rows
from emojax.ops.chain import smoothed


class EmotionChain(nn.Module):
    """Smooths an utterance's decision with those of its speaker and of the others, in both ways.

    See `ops.chain.smoothed`. Weights, base and transitions are learned, the latter from matrices
    that mostly keep what there is. A few numbers say what attention must find from data; inertia
    and contagion are Kuppens et al. 2010 and Hatfield et al. 1993. A causal one looks back alone.
    """

    causal: bool

    @nn.compact
    def __call__(
        self, unary: Float[Array, "B L C"], speaker: Int[Array, "B L"], segment: Int[Array, "B L"]
    ) -> Float[Array, "B L C"]:
        classes, ways = unary.shape[-1], 1 if self.causal else 2

        def stay(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            return jnp.broadcast_to(3 * jnp.eye(classes, dtype=dtype), shape)

        transition = self.param("transition", stay, (ways, 2, classes, classes), jnp.float32)
        weight = self.param("weight", nn.initializers.zeros, (ways, 3), jnp.float32)
        base = self.param("base", nn.initializers.zeros, (classes,), jnp.float32)
        rows = ("batch", "length")
        whole = (None, None, None, None), (None, None), (None,)
        infer = over_shards(self.infer, ((*rows, None), *whole, rows, rows), (*rows, None))
        return infer(unary, transition, weight, base, speaker, segment)

    def infer(
        self, unary: Array, transition: Array, weight: Array, base: Array, speaker: Array,
        segment: Array,
    ) -> Float[Array, "B L C"]:  # fmt: skip
        length, first = unary.shape[1], first_column(unary.shape[1])
        unary, speaker, segment = map(whole_rows, (unary, speaker, segment))
        transition, weight, base = map(jax.nn.softmax, (transition, weight, base))
        smooth = smoothed(unary, transition, weight, base, speaker, segment)
        return jax.lax.dynamic_slice_in_dim(smooth, first, length, axis=1)
