"""What training minimises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from emojax.config import TrainConfig
from emojax.config.finetune import TuneConfig
from emojax.config.swept import off
from emojax.models.output import Output
from emojax.nn.sharding import constrain
from emojax.ops.contrastive import contrast
from emojax.ops.losses import summed_cross_entropy, summed_distillation
from emojax.types import MODALITIES

TINY = float(np.finfo(np.float32).tiny)


def class_weights(config: TrainConfig | TuneConfig, counts: np.ndarray) -> np.ndarray | None:
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
    """NLL(logits) + w sum_m NLL(logits_m)^p + u sum_m T^2 KL(logits / T | logits_m / T) in nats,
    and of a model with a shared space how badly modalities find one another there.

    With w = .1, p = 2 and u = 0 this is the published loss (arXiv:2603.25752, both factors of the
    square differentiated); with w = u = 1 and p = 1 that of SDT (arXiv:2310.20494).
    """
    sums, total = terms(output, label, config, weights)
    loss = combined([each / jnp.maximum(total, TINY) for each in sums], config)
    return loss if output.space is None else loss + contrast_of(output, label)


def contrast_of(output: Output, label: Int[Array, "B L"]) -> Float[Array, ""]:
    """`ops.contrastive.contrast` of a batch, negatives from the rows of all devices."""
    space: Any = output.space

    def whole(x: Array) -> Array:
        return constrain(x, *(None,) * x.ndim)

    return contrast(
        space.embedding, space.present, space.scale, label if space.supervised else None,
        output.logits.shape[-1], whole=whole,
    )  # fmt: skip


def terms(
    output: Output,
    label: Int[Array, "B L"],
    config: TrainConfig,
    weights: Float[Array, " C"] | None,
) -> tuple[list[Array], Array]:
    """What the objective is made of, to be added up over parts of a batch.

    Returns:
      (sums over the labelled utterances, one for each term of the objective: the NLL of the
      decision, then those of the modalities, then their divergences, if these count; what to divide
      them by)
    """

    def nll(logits: Array) -> tuple[Array, Array]:
        return summed_cross_entropy(logits, label, weights, config.label_smoothing)

    loss, total = nll(output.logits)
    sums = [loss]
    each = [output.modality_logits[:, :, m] for m in range(len(MODALITIES))]
    if not off(config.auxiliary_weight):
        sums += [nll(logits)[0] for logits in each]
    if not off(config.distillation_weight):
        sums += [
            summed_distillation(
                logits, output.logits, label, weights, config.distillation_temperature
            )
            for logits in each
        ]
    return sums, total


def combined(means: Sequence[Array], config: TrainConfig) -> Array:
    """The objective of the means of what `terms` lists."""
    loss, *others = means
    count = 0 if off(config.auxiliary_weight) else len(MODALITIES)
    for each in others[:count]:
        loss += config.auxiliary_weight * jnp.power(each, config.auxiliary_power)
    for each in others[count:]:
        loss += config.distillation_weight * each
    return loss
