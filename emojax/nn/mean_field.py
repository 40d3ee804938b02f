"""Decisions that know of their neighbours': a conditional random field along the relation graph."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.sharding import first_column, over_shards, whole_rows
from emojax.ops.masks import RELATIONS
from emojax.ops.windows import Windows


class RelationMeanField(nn.Module):
    """Steps of mean-field inference with a label-compatibility matrix for each relation.

    logits_i <- unary_i + sum_r sum_j exp(-a_r (|i - j| - 1)) p_j Theta_r over the edges (i, j) of
    relation r, with p the probabilities of the step before (after arXiv:1502.03240). Theta says how
    a speaker's own emotion persists and how others' are caught, a how fast either fades; a few
    numbers, learned from little data, where attention would need much.
    """

    steps: int
    window: int
    causal: bool

    @nn.compact
    def __call__(
        self, unary: Float[Array, "B L C"], speaker: Int[Array, "B L"], segment: Int[Array, "B L"]
    ) -> Float[Array, "B L C"]:
        classes, relations = unary.shape[-1], RELATIONS - 2  # neither "no edge" nor itself
        compatibility = self.param(
            "compatibility", nn.initializers.zeros, (relations, classes, classes), jnp.float32
        )
        fading = jax.nn.softplus(
            self.param("fading", nn.initializers.zeros, (relations,), jnp.float32)
        )
        rows = ("batch", "length")
        infer = over_shards(
            self.infer, ((*rows, None), (None, None, None), (None,), rows, rows), (*rows, None)
        )
        return infer(unary, compatibility, fading, speaker, segment)

    def infer(
        self, unary: Array, compatibility: Array, fading: Array, speaker: Array, segment: Array
    ) -> Float[Array, "B L C"]:
        length, first = unary.shape[1], first_column(unary.shape[1])
        speaker, segment = whole_rows(speaker), whole_rows(segment)
        windows = Windows.of(length, speaker.shape[1], self.window, causal=self.causal)

        def weights(speaker: Array, segment: Array) -> Float[Array, "n R Q W"]:
            query, key = windows.columns(first)
            apart = jnp.maximum(jnp.abs(query - key) - 1, 0)
            kind = jnp.arange(2, RELATIONS)[:, None, None]
            edge = windows.codes(speaker, segment, first)[:, None] == kind
            return jnp.where(edge, jnp.exp(-fading[:, None, None] * apart[:, None]), 0.0)

        def step(belief: Array, weight: Array) -> Float[Array, "L R C"]:
            return windows.join(
                jnp.einsum("nrij,njc->nirc", weight, windows.reached(belief, first))
            )

        weight = jax.vmap(weights)(speaker, segment)
        logits = unary
        for _ in range(self.steps):
            near = jax.vmap(step)(whole_rows(jax.nn.softmax(logits)), weight)
            logits = unary + jnp.einsum("birc,rcd->bid", near, compatibility)
        return logits
