"""What training minimises."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from emojax.config import TrainConfig
from emojax.models.output import Output
from emojax.ops.losses import cross_entropy


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
    loss = cross_entropy(output.logits, label, weights, config.label_smoothing)
    if config.auxiliary_weight > 0:
        for modality in range(output.modality_logits.shape[2]):
            each = cross_entropy(
                output.modality_logits[:, :, modality], label, weights, config.label_smoothing
            )
            loss += config.auxiliary_weight * jnp.power(each, config.auxiliary_power)
    return loss
