"""Losses over utterances, padding and unlabelled ones left out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

Scalar = float | Float[Array, ""]


def cross_entropy(
    logits: Float[Array, "*axes C"],
    label: Int[Array, "*axes"],
    class_weight: Float[Array, " C"] | None = None,
    smoothing: Scalar = 0.0,
) -> Float[Array, ""]:
    """Weighted mean of -log p[label] in nats over the labelled utterances; 0 if there are none.

    Sum of w[y] (-log p[y]) over sum of w[y], with w = 1 without class weights: an utterance's
    weight is its label's. Smoothing mixes the label with the uniform distribution.
    """
    loss, total = summed_cross_entropy(logits, label, class_weight, smoothing)
    return loss / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)


def summed_cross_entropy(
    logits: Float[Array, "*axes C"],
    label: Int[Array, "*axes"],
    class_weight: Float[Array, " C"] | None = None,
    smoothing: Scalar = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numerator and denominator of `cross_entropy`, to be added up over parts of a batch."""
    classes = logits.shape[-1]
    target = jax.nn.one_hot(label, classes)  # a row of zeros where label is UNLABELLED
    weight = _weight(target, class_weight)
    target = (1 - smoothing) * target + smoothing / classes
    loss = -(target * jax.nn.log_softmax(logits.astype(jnp.float32))).sum(-1)
    return (weight * loss).sum(), weight.sum()


def summed_distillation(
    student: Float[Array, "*axes C"],
    teacher: Float[Array, "*axes C"],
    label: Int[Array, "*axes"],
    class_weight: Float[Array, " C"] | None = None,
    temperature: Scalar = 1.0,
) -> Float[Array, ""]:
    """T^2 KL(softmax(teacher / T) | softmax(student / T)) in nats, summed as `summed_cross_entropy`
    sums (SDT, arXiv:2310.20494; arXiv:1503.02531). Nothing is learned by the teacher."""
    weight = _weight(jax.nn.one_hot(label, student.shape[-1]), class_weight)
    of_teacher, of_student = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature)
        for x in (jax.lax.stop_gradient(teacher), student)
    )
    divergence = (jnp.exp(of_teacher) * (of_teacher - of_student)).sum(-1)
    return temperature**2 * (weight * divergence).sum()


def _weight(target: Float[Array, "*axes C"], class_weight: Array | None) -> Float[Array, "*axes"]:
    """Of each utterance, from its one-hot label; 0 where it has none."""
    return target.sum(-1) if class_weight is None else target @ class_weight
