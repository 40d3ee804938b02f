"""Models that look at each utterance on its own."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from emojax.config.baselines import (
    AttentionFusionConfig,
    EarlyFusionConfig,
    HybridFusionConfig,
    LateFusionConfig,
    LowRankFusionConfig,
    SingleConfig,
    TensorFusionConfig,
)
from emojax.models.baselines.frame import Baseline
from emojax.models.output import Output
from emojax.nn.fusion import Decisions, Hidden, LowRankProducts, Scores, TensorProducts
from emojax.nn.layers import Dropout, gelu
from emojax.types import MODALITIES, Batch


class Single(Baseline):
    """One modality and a perceptron: what the modality says by itself."""

    config: SingleConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        streams, _ = self.streams(batch)
        hidden = self.each(streams, self.config.layers)
        only = MODALITIES.index(self.config.modalities[0])
        return self.output(hidden[only], hidden)


class EarlyFusion(Baseline):
    """Concatenated features and a perceptron (feature-level fusion; survey arXiv:1705.09406)."""

    config: EarlyFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        streams, _ = self.streams(batch)
        return self.output(self.together(streams, self.config.layers), streams)


class LateFusion(Baseline):
    """A perceptron and a decision for each modality, and a mean of these, alike or with learned
    weights (decision-level fusion; survey arXiv:1705.09406)."""

    config: LateFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        streams, present = self.streams(batch)
        logits = self.decisions(self.each(streams, self.config.layers))
        mean = Decisions(self.config.decision == "learned", name="decision")
        return Output(logits=mean(logits, present), modality_logits=logits)


class HybridFusion(Baseline):
    """Early and late fusion side by side, and a learned balance of their two decisions
    (survey arXiv:1705.09406)."""

    config: HybridFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, present = self.streams(batch)
        logits = self.decisions(self.each(streams, c.layers))
        early = self.head(self.together(streams, c.layers), "head")
        late = Decisions(True, name="decision")(logits, present)
        balance = Decisions(True, name="balance")
        both = jnp.stack([early, late], axis=2)
        either = jnp.ones((*early.shape[:2], 2), bool)
        return Output(logits=balance(both, either), modality_logits=logits)


class AttentionFusion(Baseline):
    """A network scores the modalities of each utterance and their weighted sum decides
    (multimodal attention at the level of modalities, as in CATF-LSTM, Poria et al., ICDM 2017).

    The weights are in the output; a missing modality has none.
    """

    config: AttentionFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, present = self.streams(batch)
        hidden = self.each(streams, c.layers)
        stacked = jnp.stack(hidden, axis=2)
        weight = Scores(self.dtype, name="scores")(stacked, present)
        found = (weight[..., None].astype(self.dtype) * stacked).sum(2)
        found = Hidden(c.layers, c.width, c.dropout, self.dtype, name="hidden")(found)
        return dataclasses.replace(self.output(found, hidden), weights=weight)


class TensorFusion(Baseline):
    """Tensor fusion network (arXiv:1707.07250): the outer product of all three modalities, each
    with a one beside its units, so that pairs and single units are among the products."""

    config: TensorFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        products = TensorProducts(c.units, self.dtype, name="products")(streams)
        hidden = Hidden(1, c.width, c.dropout, self.dtype, name="hidden")(products)
        return self.output(hidden, streams)


class LowRankFusion(Baseline):
    """Low-rank multimodal fusion (arXiv:1806.00064): tensor fusion whose kernel is a sum of outer
    products, so that its cost grows with the rank and not with the cube of the width."""

    config: LowRankFusionConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        hidden = self.each(streams, 1)
        products = LowRankProducts(c.rank, c.width, self.dtype, name="products")(hidden)
        found: Array = Dropout(c.dropout)(gelu(products))
        return self.output(found, hidden)
