"""Decisions that know how emotions persist and spread: a hidden Markov chain over the speakers."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.nn.sharding import first_column, over_shards, whole_rows


class EmotionChain(nn.Module):
    """Smooths an utterance's decision with those of its speaker and of the others, in both ways.

    Before utterance i is looked at, its emotion is its speaker's own of last time (inertia), that
    of whoever else spoke last (contagion), each changed by a learned transition matrix, or drawn
    afresh:

      prior_i = w_0 belief_same(i) T_0 + w_1 belief_other(i) T_1 + w_2 base
      belief_i ~ prior_i exp(unary_i)

    and the same from the conversation's end with weights and matrices of its own. Without either
    neighbour its belief is the base. The outcome is unary + log prior forwards + log prior
    backwards - log base, exact smoothing where there is one speaker and transitions are reversible
    (Rabiner 1989, section III; of several speakers the beliefs are taken to be independent, as by
    Boyen and Koller 1998). A few numbers say what attention must find from data; inertia and
    contagion are Kuppens et al. 2010 and Hatfield et al. 1993.
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
        transition, weight = jax.nn.softmax(transition), jax.nn.softmax(weight)
        base = jax.nn.softmax(base)
        logits = unary + log_priors(unary, transition[0], weight[0], base, speaker, segment)
        if not self.causal:
            turned = (x[:, ::-1] for x in (unary, speaker, segment))
            unary, speaker, segment = turned
            later = log_priors(unary, transition[1], weight[1], base, speaker, segment)
            logits += later[:, ::-1] - jnp.log(base)
        return jax.lax.dynamic_slice_in_dim(logits, first, length, axis=1)


def log_priors(
    unary: Float[Array, "B L C"],
    transition: Float[Array, "2 C C"],
    weight: Float[Array, " 3"],
    base: Float[Array, " C"],
    speaker: Int[Array, "B L"],
    segment: Int[Array, "B L"],
) -> Float[Array, "B L C"]:
    """log prior_i of `EmotionChain`, from left to right."""
    same, other = (x.astype(unary.dtype).swapaxes(0, 1) for x in latest(speaker, segment))

    def step(beliefs: Array, x: tuple[Array, ...]) -> tuple[Array, Array]:
        number, unary, same, other = x
        # Sums over all columns instead of indices: where there is nobody, they are zero.
        own, others = (
            jnp.einsum("bl,lbc->bc", at, beliefs) + (1 - at.sum(-1, keepdims=True)) * base
            for at in (same, other)
        )
        prior = weight[0] * own @ transition[0] + weight[1] * others @ transition[1]
        prior = jnp.log(prior + weight[2] * base)
        belief = jax.nn.softmax(prior + unary)
        return jax.lax.dynamic_update_index_in_dim(beliefs, belief, number, 0), prior

    columns = jnp.arange(unary.shape[1])
    unary = unary.swapaxes(0, 1)
    _, priors = jax.lax.scan(step, jnp.zeros_like(unary), (columns, unary, same, other))
    return priors.swapaxes(0, 1)


def latest(
    speaker: Int[Array, "B L"], segment: Int[Array, "B L"]
) -> tuple[Bool[Array, "B L L"], Bool[Array, "B L L"]]:
    """Whether column j is the last before i in which i's speaker spoke, and the last in which
    another did, in the same conversation."""
    column = jnp.arange(speaker.shape[1])
    before = (segment[:, :, None] == segment[:, None]) & (column[:, None] > column)
    same = speaker[:, :, None] == speaker[:, None]

    def last(at: Array) -> Array:
        place = jnp.where(at, column, -1).max(-1, keepdims=True)
        return at & (column == place)

    return last(before & same), last(before & ~same)
