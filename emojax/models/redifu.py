"""ReDiFu with its defects mended, every choice a field of its config (specification, section 3).

A conversation's output depends on that conversation alone: not on its batch mates, on padding or
on what it is packed with. In causal mode an utterance's output depends on its past alone.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config import RedifuConfig
from emojax.models.output import Output
from emojax.nn.attention import Delta, DifferentialLayer
from emojax.nn.diffusion import TextGuidedDiffusion
from emojax.nn.layers import Dropout, LayerNorm, Standardise, dense, rematerialised
from emojax.nn.mean_field import RelationMeanField
from emojax.nn.relation_graph import RelationGraphLayer
from emojax.nn.sharding import constrain, stream
from emojax.ops.random import keep_mask
from emojax.types import MODALITIES, Batch, Signature


class Redifu(nn.Module):
    """Inputs, audio and video encoders, relation graph, text-guided diffusion, heads."""

    config: RedifuConfig
    signature: Signature
    remat: str = "none"

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        allowed = jnp.array([modality in c.modalities for modality in MODALITIES])
        present = self.hide_modalities(batch.present & allowed, batch.segment)
        streams = [
            self.embed(batch, present[:, :, i], modality) for i, modality in enumerate(MODALITIES)
        ]
        for i, modality in enumerate(MODALITIES):
            if modality != "text":
                streams[i] = self.encode(streams[i], batch, modality)
        x = stream(jnp.stack(streams, axis=2))

        # Who speaks matters to relations alone; all alike, only past and future differ.
        speaker = batch.speaker if c.speaker_relations else jnp.zeros_like(batch.speaker)
        for depth in range(c.graph_layers):
            x = rematerialised(RelationGraphLayer, self.remat)(
                c.graph_heads, c.window, c.causal, c.cross_modal, c.feed_forward_ratio, c.dropout,
                c.attention_dropout, dtype, name=f"graph_{depth}",
            )(x, speaker, batch.segment, present)  # fmt: skip
        if c.text_guidance:
            text = rematerialised(TextGuidedDiffusion, self.remat)(
                c.heads, c.diffusion_steps, c.causal, c.dropout, dtype, name="diffusion"
            )(x, present, batch.segment, batch.position)
            x = jnp.concatenate([text[:, :, None], x[:, :, 1:]], axis=2)

        x = Dropout(c.dropout)(LayerNorm(name="head_norm", shape=(len(MODALITIES),))(x))
        classes = len(self.signature.labels)
        logits = dense(classes, jnp.float32, "head")(x.reshape(*x.shape[:2], -1))
        if c.mean_field_steps > 0:
            logits = RelationMeanField(c.mean_field_steps, c.window, c.causal, name="mean_field")(
                logits, speaker, batch.segment
            )
        each = [
            dense(classes, jnp.float32, f"{modality}_head")(x[:, :, i])
            for i, modality in enumerate(MODALITIES)
        ]
        return Output(logits=logits, modality_logits=jnp.stack(each, axis=2))

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
        x = dense(c.width, dtype, f"{modality}_input", axes=(None, "embed"))(features)
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

    def mix(
        self, features: Float[Array, "B L D_m"], present: Bool[Array, "B L"]
    ) -> Float[Array, "B L D_m"]:
        """In training, a x_i + (1 - a) x_j with a uniform in [0, 1] and j any of the batch.

        The label stays that of i, so how far features tell the label is no longer what training
        features say of themselves, and context is worth learning.
        """
        rate = self.config.feature_mix
        if rate == 0 or not self.has_rng("dropout"):
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

    def encode(self, x: Float[Array, "B L D"], batch: Batch, name: str) -> Float[Array, "B L D"]:
        """The differential Transformer of audio or video."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if c.delta:
            x = Delta(c.causal, dtype, name=f"{name}_delta")(x, batch.segment)
        for depth in range(c.encoder_layers):
            x = rematerialised(DifferentialLayer, self.remat)(
                c.heads, c.attention, c.causal, c.feed_forward_ratio, c.dropout,
                c.attention_dropout, depth, dtype,
                name=f"{name}_encoder_{depth}",
            )(x, batch.segment, batch.position)  # fmt: skip
        return x

    def hide_modalities(
        self, present: Bool[Array, "B L M"], segment: Int[Array, "B L"]
    ) -> Bool[Array, "B L M"]:
        """In training, hide a modality of a whole conversation now and then, but never all.

        One draw for each row, segment and modality: conversations of a packed row differ.
        """
        rate = self.config.modality_dropout
        if rate == 0 or not self.has_rng("dropout"):
            return present
        rows, length, modalities = present.shape
        # A row holds at most as many conversations as it has columns.
        keep = keep_mask(self.make_rng("dropout"), rate, (rows, length + 1, modalities))
        keep = keep | ~keep.any(-1, keepdims=True)
        return present & jnp.take_along_axis(keep, segment[:, :, None], axis=1)
