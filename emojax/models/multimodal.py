"""What every model does with features before anything else."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config.swept import off
from emojax.nn.alignment import Alignment
from emojax.nn.encoders.frames import FrameEncoder
from emojax.nn.layers import Dropout, Standardise, dense
from emojax.nn.sharding import constrain, stream
from emojax.ops.random import keep_mask
from emojax.types import MODALITIES, Batch, Signature


class Multimodal(nn.Module):
    """A model of three streams of features, any of which may be missing.

    Attributes:
      config: with the fields of `InputConfig`.
      remat: see `TrainConfig`.
    """

    config: Any
    signature: Signature
    remat: str = "none"

    def streams(self, batch: Batch) -> tuple[list[Float[Array, "B L D"]], Bool[Array, "B L M"]]:
        """Each modality at model width, and which of them are there to be used."""
        allowed = jnp.array([modality in self.config.modalities for modality in MODALITIES])
        present = self.hide_modalities(batch.present & allowed, batch.segment)
        found = [
            self.embed(batch, present[:, :, i], modality) for i, modality in enumerate(MODALITIES)
        ]
        c = self.config
        if c.alignment != "none":
            dtype = jnp.dtype(c.dtype)
            align = Alignment(c.alignment, c.causal, c.dropout, dtype, name="alignment")
            found = align(found, batch.segment, batch.position)
        return found, present

    def embed(
        self, batch: Batch, present: Bool[Array, "B L"], modality: str
    ) -> Float[Array, "B L D"]:
        """Features at model width; a learned vector stands where the modality is missing."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        # Masked before anything is computed, so not even a NaN of a missing modality gets through.
        features = jnp.where(present[..., None], getattr(batch, modality), 0)
        features = Standardise(name=f"{modality}_standardise")(features)
        features = self.mix(features, present)
        features = Dropout(c.input_dropout)(features.astype(dtype))
        x = self.read(features, present, modality)
        missing = self.param(
            f"{modality}_missing", nn.initializers.normal(0.02), (c.width,), jnp.float32
        )
        x = jnp.where(present[..., None], x, missing.astype(dtype))
        if c.speaker_embedding:
            speakers = len(self.signature.speakers)
            table = self.param(
                f"{modality}_speaker", nn.initializers.normal(0.02), (speakers, c.width),
                jnp.float32,
            )  # fmt: skip
            x += nn.one_hot(batch.speaker, speakers, dtype=dtype) @ table.astype(dtype)
        return stream(x)

    def read(
        self, features: Float[Array, "B L D_m"], present: Bool[Array, "B L"], modality: str
    ) -> Float[Array, "B L D"]:
        """An affine map of an utterance's features, or a recurrent network over their frames."""
        width, dtype = self.config.width, features.dtype
        frames = self.signature.frames[MODALITIES.index(modality)]
        if frames == 1:
            return dense(width, dtype, f"{modality}_input", axes=(None, "embed"))(features)
        along = features.reshape(present.size, frames, -1)
        there = jnp.broadcast_to(present.reshape(-1, 1), along.shape[:2])
        found = FrameEncoder(width, dtype=dtype, name=f"{modality}_frames")(along, there)
        return found.reshape(*present.shape, width)

    def mix(
        self, features: Float[Array, "B L D_m"], present: Bool[Array, "B L"]
    ) -> Float[Array, "B L D_m"]:
        """In training, a x_i + (1 - a) x_j with a uniform in [0, 1] and j any of the batch.

        The label stays that of i, so how far features tell the label is no longer what training
        features say of themselves, and context is worth learning.
        """
        rate = self.config.feature_mix
        if off(rate) or not self.has_rng("dropout"):
            return features
        mix_key, donor_key, share_key = jax.random.split(self.make_rng("dropout"), 3)
        donor = jax.random.randint(donor_key, present.shape, 0, present.size)
        mixed = present & ~keep_mask(mix_key, rate, present.shape)
        # Any utterance of the batch: the one place where devices look at others' rows.
        mixed &= constrain(present, None, None).reshape(-1)[donor]
        share = jnp.where(mixed, jax.random.uniform(share_key, present.shape), 1.0)[..., None]
        everybody = constrain(features, None, None, None).reshape(-1, features.shape[-1])
        others = everybody[donor]
        return share * features + (1 - share) * others

    def hide_modalities(
        self, present: Bool[Array, "B L M"], segment: Int[Array, "B L"]
    ) -> Bool[Array, "B L M"]:
        """In training, hide a modality of a whole conversation now and then, but never all.

        One draw for each row, segment and modality: conversations of a packed row differ.
        """
        rate = self.config.modality_dropout
        if off(rate) or not self.has_rng("dropout"):
            return present
        rows, length, modalities = present.shape
        # A row holds at most as many conversations as it has columns.
        keep = keep_mask(self.make_rng("dropout"), rate, (rows, length + 1, modalities))
        keep = keep | ~keep.any(-1, keepdims=True)
        return present & jnp.take_along_axis(keep, segment[:, :, None], axis=1)
