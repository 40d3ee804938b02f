"""What training minimises."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from emojax.config import TrainConfig
from emojax.models.output import Output
from emojax.ops.losses import summed_cross_entropy

TINY = float(np.finfo(np.float32).tiny)


def class_weights(config: TrainConfig, counts: np.ndarray) -> np.ndarray | None:
    """f32[C] weights from the training split's label counts, with mean 1 over its utterances.

    A class that training never shows keeps weight 1: it has no share to invert.
    """
    if config.class_weights == "none":
        return None
    seen = counts > 0
    weights = np.ones(len(counts))
    weights[seen] = counts.sum() / (seen.sum() * counts[seen])
    return weights.astype(np.float32)


def objective(
    output: Output,
    label: Int[Array, "B L"],
    config: TrainConfig,
    weights: Float[Array, " C"] | None,
) -> Float[Array, ""]:
    """NLL(logits) + w sum_m NLL(logits_m)^p in nats.

    With w = .1 and p = 2 this is the published loss (arXiv:2603.25752, both factors of the square
    differentiated).
    """
    sums, total = terms(output, label, config, weights)
    return combined([each / jnp.maximum(total, TINY) for each in sums], config)


def terms(
    output: Output,
    label: Int[Array, "B L"],
    config: TrainConfig,
    weights: Float[Array, " C"] | None,
) -> tuple[list[Array], Array]:
    """What the objective is made of, to be added up over parts of a batch.

    Returns:
      (sums over the labelled utterances, one for each NLL of the objective; what to divide them by)
    """

    def nll(logits: Array) -> tuple[Array, Array]:
        return summed_cross_entropy(logits, label, weights, config.label_smoothing)

    loss, total = nll(output.logits)
    if config.auxiliary_weight == 0:
        return [loss], total
    modalities = range(output.modality_logits.shape[2])
    return [loss, *(nll(output.modality_logits[:, :, m])[0] for m in modalities)], total


def combined(means: Sequence[Array], config: TrainConfig) -> Array:
    """The objective of the mean NLLs that `terms` lists."""
    loss, *others = means
    for each in others:
        loss += config.auxiliary_weight * jnp.power(each, config.auxiliary_power)
    return loss
