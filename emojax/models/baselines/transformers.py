"""Models whose modalities attend to the conversation."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from emojax.config.baselines import LateTransformerConfig, MultConfig, SdtConfig
from emojax.models.baselines.frame import Baseline
from emojax.models.output import Output
from emojax.nn.attention import DifferentialLayer
from emojax.nn.fusion import Decisions
from emojax.nn.layers import Dropout, LayerNorm, dense, gelu, rematerialised
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.types import MODALITIES, Batch


class Attending(Baseline):
    """A baseline with layers of plain attention, within a stream or to another."""

    def attend(self, x: Array, batch: Batch, name: str, source: Array | None = None) -> Array:
        c = self.config
        layer: Any = rematerialised(DifferentialLayer, self.remat)(
            c.heads, "none", c.causal, c.feed_forward_ratio, c.dropout, 0.0, 0, self.dtype,
            name=name,
        )  # fmt: skip
        return layer(x, batch.segment, batch.position, source)


class LateTransformer(Attending):
    """A Transformer (arXiv:1706.03762) for each modality, and a mean of their decisions."""

    config: LateTransformerConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, present = self.streams(batch)
        for i, modality in enumerate(MODALITIES):
            for depth in range(c.layers):
                streams[i] = self.attend(streams[i], batch, f"{modality}_layer_{depth}")
            streams[i] = Dropout(c.dropout)(LayerNorm(name=f"{modality}_norm")(streams[i]))
        logits = self.decisions(streams)
        mean = Decisions(c.decision == "learned", name="decision")
        return Output(logits=mean(logits, present), modality_logits=logits)


class Mult(Attending):
    """Multimodal Transformer (arXiv:1906.00295): each modality is enriched by attending to each
    other one, six directed pairs; what a modality got of both goes through a Transformer of its
    own, and a residual perceptron decides from all three.

    The published model attends between the words, sounds and frames of one utterance; here a stream
    is a conversation and its elements are utterances.
    """

    config: MultConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        enriched = []
        for i, target in enumerate(MODALITIES):
            pair = []
            for j, source in enumerate(MODALITIES):
                if i == j:
                    continue
                x = streams[i]
                for depth in range(c.layers):
                    x = self.attend(x, batch, f"{source}_to_{target}_{depth}", streams[j])
                pair.append(x)
            x = jnp.concatenate(pair, -1)
            for depth in range(c.layers):
                x = self.attend(x, batch, f"{target}_layer_{depth}")
            enriched.append(LayerNorm(name=f"{target}_norm")(x))
        x = jnp.concatenate(enriched, -1)
        h = Dropout(c.dropout)(gelu(dense(x.shape[-1], self.dtype, "hidden")(x)))
        return self.output(x + dense(x.shape[-1], self.dtype, "out")(h), enriched)


class Sdt(Attending):
    """Self-distilled Transformer (arXiv:2310.20494): each modality attends to itself and to both
    others; gates weigh what it got, feature by feature, and then the modalities against one
    another.

    With `train.auxiliary_weight` and `train.distillation_weight` the modalities' own decisions
    learn from labels and from the decision of all, as published.
    """

    config: SdtConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, present = self.streams(batch)
        refined = []
        for i, target in enumerate(MODALITIES):
            parts = []
            for j, source in enumerate(MODALITIES):
                of = None if i == j else streams[j]
                x = self.attend(streams[i], batch, f"{source}_to_{target}", of)
                gate = dense(c.width, self.dtype, f"{source}_to_{target}_gate", use_bias=False)
                parts.append(nn.sigmoid(gate(x)) * x)
            joined = dense(c.width, self.dtype, f"{target}_join")(jnp.concatenate(parts, -1))
            refined.append(LayerNorm(name=f"{target}_norm")(joined))
        stacked = jnp.stack(refined, axis=2)
        score = dense(c.width, jnp.float32, "gate", use_bias=False)(stacked)
        weight = masked_softmax(jnp.swapaxes(score, 2, 3), present[:, :, None]).astype(self.dtype)
        found = (jnp.swapaxes(weight, 2, 3) * stacked).sum(2)
        drop = Dropout(c.dropout)
        return self.output(drop(found), [drop(nn.relu(x)) for x in refined])
