"""Decisions that know of their neighbours': a conditional random field along the relation graph."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.ops.masks import RELATIONS


class RelationMeanField(nn.Module):
    """Steps of mean-field inference with a label-compatibility matrix for each relation.

    logits_i <- unary_i + sum_r sum_j exp(-a_r (|i - j| - 1)) p_j Theta_r over the edges (i, j) of
    relation r, with p the probabilities of the step before (after arXiv:1502.03240). Theta says how
    a speaker's own emotion persists and how others' are caught, a how fast either fades; a few
    numbers, learned from little data, where attention would need much.
    """

    steps: int

    @nn.compact
    def __call__(
        self, unary: Float[Array, "B L C"], codes: Int[Array, "B L L"]
    ) -> Float[Array, "B L C"]:
        classes, relations = unary.shape[-1], RELATIONS - 2  # neither "no edge" nor itself
        compatibility = self.param(
            "compatibility", nn.initializers.zeros, (relations, classes, classes), jnp.float32
        )
        fading = jax.nn.softplus(
            self.param("fading", nn.initializers.zeros, (relations,), jnp.float32)
        )
        column = jnp.arange(codes.shape[1])
        steps_apart = jnp.abs(column[:, None] - column[None, :]) - 1
        weight = jnp.exp(-fading[:, None, None] * steps_apart)
        kind = jnp.arange(2, RELATIONS)[:, None, None]
        weight = jnp.where(codes[:, None] == kind, weight, 0.0)
        logits = unary
        for _ in range(self.steps):
            near = jnp.einsum("brij,bjc->birc", weight, jax.nn.softmax(logits))
            logits = unary + jnp.einsum("birc,rcd->bid", near, compatibility)
        return logits
