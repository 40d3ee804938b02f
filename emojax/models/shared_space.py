"""One space for the modalities of an utterance, learned by contrast."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.config.shared_space import SharedSpaceConfig
from emojax.models.baselines.frame import Baseline
from emojax.models.output import Output, Space
from emojax.nn.layers import dense
from emojax.types import MODALITIES, Batch

HOTTEST = 100.0
"""Largest scale, as in arXiv:2103.00020: sharper softmaxes than that only learn noise."""


class SharedSpace(Baseline):
    """A perceptron for each modality into one space (CLIP, arXiv:2103.00020), a linear decision.

    What is decided teaches the space nothing: its gradient ends at the embeddings, so scores say
    how much of emotion can be read off a space that contrast alone has made. Parameters of inputs
    and perceptrons are called as in the models of fusion, which may start from them
    (`train.initialise_from`).
    """

    config: SharedSpaceConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, present = self.streams(batch)
        hidden = self.each(streams, c.layers)
        embedding = jnp.stack(
            [
                _unit(dense(c.units, self.dtype, f"{m}_space")(x))
                for m, x in zip(MODALITIES, hidden, strict=True)
            ],
            axis=2,
        )
        start = nn.initializers.constant(-jnp.log(c.temperature))
        scale = jnp.minimum(jnp.exp(self.param("log_scale", start, (), jnp.float32)), HOTTEST)
        read = jnp.where(present[..., None], jax.lax.stop_gradient(embedding), 0.0)
        # Unit vectors say little to a linear layer of the usual start.
        read = read * c.units**0.5
        # Not called heads, as those of fusion are not to start from them.
        each = [self.head(read[:, :, i], f"{m}_probe") for i, m in enumerate(MODALITIES)]
        return Output(
            logits=self.head(read.reshape(*read.shape[:2], -1), "probe"),
            modality_logits=jnp.stack(each, axis=2),
            space=Space(embedding, present, scale, supervised=c.contrast == "supervised"),
        )


def _unit(x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    """f32, of length 1."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
