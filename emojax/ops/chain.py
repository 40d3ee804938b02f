"""Hidden Markov chains of emotions along a conversation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int


def smoothed(
    unary: Float[Array, "B L C"],
    transition: Float[Array, "ways 2 C C"],
    weight: Float[Array, "ways 3"],
    base: Float[Array, " C"],
    speaker: Int[Array, "B L"],
    segment: Int[Array, "B L"],
) -> Float[Array, "B L C"]:
    """Logits of each utterance that know of its conversation's others.

    Before utterance i is looked at, its emotion is its speaker's own of last time (inertia), that
    of whoever else spoke last (contagion), each changed by a transition matrix, or drawn afresh:

      prior_i = w_0 belief_same(i) T_0 + w_1 belief_other(i) T_1 + w_2 base
      belief_i ~ prior_i exp(unary_i)

    and the same from the conversation's end with weights and matrices of its own. Without either
    neighbour its belief is the base. The outcome is unary + log prior forwards + log prior
    backwards - log base, exact smoothing where there is one speaker and transitions are reversible
    (Rabiner 1989, section III; of several speakers the beliefs are taken to be independent, as by
    Boyen and Koller 1998).

    Args:
      unary: logits of each utterance by itself.
      transition, weight, base: probabilities along their last axis. With one way there is no
        looking back from the end.
      segment: conversation of each column, 0 for padding.
    """
    before = log_priors(unary, transition[0], weight[0], base, speaker, segment)
    if len(transition) == 1:
        return unary + before
    turned, speaker, segment = (jax.lax.rev(x, (1,)) for x in (unary, speaker, segment))
    after = log_priors(turned, transition[1], weight[1], base, speaker, segment)
    after = jax.lax.rev(after, (1,))
    return unary + before + after - jnp.log(base)


def log_priors(
    unary: Float[Array, "B L C"],
    transition: Float[Array, "2 C C"],
    weight: Float[Array, " 3"],
    base: Float[Array, " C"],
    speaker: Int[Array, "B L"],
    segment: Int[Array, "B L"],
) -> Float[Array, "B L C"]:
    """log prior_i of `smoothed`, from left to right."""
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
