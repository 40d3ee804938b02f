"""The baselines, each named after what it does; `emojax.models.baselines` cites the papers."""

from __future__ import annotations

import dataclasses
from typing import Literal

from emojax.config.checks import positive, require
from emojax.config.inputs import InputConfig


@dataclasses.dataclass(frozen=True)
class SingleConfig(InputConfig):
    """One modality, each utterance on its own."""

    name: Literal["single"] = "single"
    modalities: tuple[Literal["text", "audio", "visual"], ...] = ("text",)
    """The one that is used."""
    layers: int = 1
    """Hidden layers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            len(self.modalities) == 1, "model.modalities",
            f"must name one modality for {self.name}, not {list(self.modalities)}",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EarlyFusionConfig(InputConfig):
    """Modalities side by side, then hidden layers; each utterance on its own."""

    name: Literal["early_fusion"] = "early_fusion"
    layers: int = 2
    """Hidden layers."""


@dataclasses.dataclass(frozen=True)
class LateFusionConfig(InputConfig):
    """A decision for each modality, then one decision of these; each utterance on its own."""

    name: Literal["late_fusion"] = "late_fusion"
    decision: Literal["average", "learned"] = "learned"
    """Probabilities of the modalities that are there count alike, or as was learned for each
    modality."""
    layers: int = 1
    """Hidden layers of a modality."""


@dataclasses.dataclass(frozen=True)
class LateTransformerConfig(InputConfig):
    """A Transformer over the conversation and a decision for each modality, then one of these."""

    name: Literal["late_transformer"] = "late_transformer"
    decision: Literal["average", "learned"] = "learned"
    """As in `late_fusion`."""
    heads: int = 4
    layers: int = 1
    """Transformer layers of a modality."""
    feed_forward_ratio: int = 2


@dataclasses.dataclass(frozen=True)
class HybridFusionConfig(InputConfig):
    """Early and late fusion, and a learned balance between their decisions."""

    name: Literal["hybrid_fusion"] = "hybrid_fusion"
    layers: int = 1
    """Hidden layers of a modality, and of all side by side."""


@dataclasses.dataclass(frozen=True)
class AttentionFusionConfig(InputConfig):
    """A network scores each modality that is there, utterance by utterance; their sum decides."""

    name: Literal["attention_fusion"] = "attention_fusion"
    layers: int = 1
    """Hidden layers of a modality, and behind the sum."""


@dataclasses.dataclass(frozen=True)
class BcLstmConfig(InputConfig):
    """An LSTM over the conversation for each modality, then one over all of them."""

    name: Literal["bc_lstm"] = "bc_lstm"


@dataclasses.dataclass(frozen=True)
class CnnRnnConfig(InputConfig):
    """Convolutions over neighbouring utterances, then a GRU over the conversation."""

    name: Literal["cnn_rnn"] = "cnn_rnn"
    taps: int = 3
    """Utterances that a convolution sees."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.taps > 0 and self.taps % 2 == 1, "model.taps",
            f"must be odd and positive, not {self.taps}",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TensorFusionConfig(InputConfig):
    """Every product of a text, an audio and a video unit; each utterance on its own."""

    name: Literal["tensor_fusion"] = "tensor_fusion"
    units: int = 12
    """Units of each modality that are multiplied: their cube is the size of what follows."""


@dataclasses.dataclass(frozen=True)
class LowRankFusionConfig(InputConfig):
    """The same products through a sum of factors, none of them written out."""

    name: Literal["low_rank_fusion"] = "low_rank_fusion"
    rank: int = 4


@dataclasses.dataclass(frozen=True)
class MultConfig(InputConfig):
    """Each modality attends to each other one over the conversation: six directed pairs."""

    name: Literal["mult"] = "mult"
    heads: int = 4
    layers: int = 1
    """Layers of a pair, and of a modality behind its two pairs."""
    feed_forward_ratio: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "model", "layers")


@dataclasses.dataclass(frozen=True)
class DialogueGcnConfig(InputConfig):
    """A GRU over the conversation, then a graph whose edges tell speakers and past from future."""

    name: Literal["dialogue_gcn"] = "dialogue_gcn"
    window: int = 5
    """W, reach of edges in utterances."""


@dataclasses.dataclass(frozen=True)
class SdtConfig(InputConfig):
    """Attention within and between modalities, and gates; modalities can learn from the decision of
    all (`train.distillation_weight`)."""

    name: Literal["sdt"] = "sdt"
    heads: int = 4
    feed_forward_ratio: int = 2
