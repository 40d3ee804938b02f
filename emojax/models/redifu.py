"""ReDiFu with its defects mended, every choice a field of its config (specification, section 3).

A conversation's output depends on that conversation alone: not on its batch mates, on padding or
on what it is packed with. In causal mode an utterance's output depends on its past alone.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.config import RedifuConfig
from emojax.models.multimodal import Multimodal
from emojax.models.output import Output
from emojax.nn.attention import DifferentialLayer
from emojax.nn.convolution import Delta
from emojax.nn.diffusion import TextGuidedDiffusion
from emojax.nn.emotion_chain import EmotionChain
from emojax.nn.layers import Dropout, LayerNorm, dense, rematerialised
from emojax.nn.relation_graph import RelationGraphLayer
from emojax.nn.sharding import stream
from emojax.types import MODALITIES, Batch


class Redifu(Multimodal):
    """Inputs, audio and video encoders, relation graph, text-guided diffusion, heads."""

    config: RedifuConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        streams, present = self.streams(batch)
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
                c.heads, c.diffusion_steps, c.causal, c.dropout, dtype, c.gates, name="diffusion"
            )(x, present, batch.segment, batch.position)
            x = jnp.concatenate([text[:, :, None], x[:, :, 1:]], axis=2)

        x = Dropout(c.dropout)(LayerNorm(name="head_norm", shape=(len(MODALITIES),))(x))
        classes = len(self.signature.labels)
        logits = dense(classes, jnp.float32, "head")(x.reshape(*x.shape[:2], -1))
        if c.chain:
            logits = EmotionChain(c.causal, name="chain")(logits, speaker, batch.segment)
        each = [
            dense(classes, jnp.float32, f"{modality}_head")(x[:, :, i])
            for i, modality in enumerate(MODALITIES)
        ]
        return Output(logits=logits, modality_logits=jnp.stack(each, axis=2))

    def encode(self, x: Float[Array, "B L D"], batch: Batch, name: str) -> Float[Array, "B L D"]:
        """The differential Transformer of audio or video."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if c.delta:
            x = Delta(c.causal, dtype, name=f"{name}_delta")(x, batch.segment)
        for depth in range(c.encoder_layers):
            x = rematerialised(DifferentialLayer, self.remat)(
                c.heads, c.attention, c.causal, c.feed_forward_ratio, c.dropout,
                c.attention_dropout, depth, dtype, c.lambda_init,
                name=f"{name}_encoder_{depth}",
            )(x, batch.segment, batch.position)  # fmt: skip
        return x
