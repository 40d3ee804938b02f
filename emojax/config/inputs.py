"""What every model but the published one is told of its inputs."""

from __future__ import annotations

import dataclasses
from typing import Literal

from emojax.config.checks import choices, fraction, positive, require

Dtype = Literal["float32", "bfloat16"]

_POSITIVE = ("width", "heads", "graph_heads", "feed_forward_ratio", "units", "rank")
_NOT_NEGATIVE = (
    "layers", "encoder_layers", "graph_layers", "diffusion_steps", "window",
)  # fmt: skip
"""What any model's fields of these names must be."""


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """Width, and what happens to features before the first layer."""

    name: str = ""
    width: int = 64
    """D."""
    dropout: float = 0.2
    """Dropout of what each layer adds."""
    input_dropout: float = 0.0
    """Dropout of raw features, before the first layer."""
    modality_dropout: float = 0.1
    """Chance that training hides a modality of a whole conversation."""
    feature_mix: float = 0.0
    """Chance that training blends an utterance's features with another utterance's, in a random
    proportion: against features that were themselves learned on the training labels and know too
    much of them."""
    modalities: tuple[Literal["text", "audio", "visual"], ...] = ("text", "audio", "visual")
    """Those the model may use; the others are treated as missing."""
    speaker_embedding: bool = False
    """Learn who the speakers are, for corpora whose speakers return."""
    alignment: Literal["none", "memory", "attention"] = "none"
    """Let audio and video of an utterance be found at its neighbours, for recordings whose streams
    are out of step by more than an utterance: by an LSTM over all streams, or by cross-modal
    attention. `emojax.data.align` mends what can be measured before."""
    causal: bool = False
    """Never look ahead, so that streaming gives what a whole conversation gives."""
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        choices(self, "model")
        names = [field.name for field in dataclasses.fields(self)]
        positive(self, "model", *(name for name in _POSITIVE if name in names))
        for name in _NOT_NEGATIVE:
            value = getattr(self, name, 0)
            require(value >= 0, f"model.{name}", f"must not be negative, not {value}")
        heads = getattr(self, "heads", 1)
        require(
            self.width % heads == 0, "model.heads",
            f"must divide model.width = {self.width}, not {heads}",
        )  # fmt: skip
        require(
            self.alignment != "attention" or self.width % 4 == 0, "model.width",
            f'must be a multiple of 4 for model.alignment = "attention", not {self.width}',
        )  # fmt: skip
        fraction(self, "model", "dropout", "input_dropout", "modality_dropout", "feature_mix")
        require(
            len(set(self.modalities)) == len(self.modalities) > 0, "model.modalities",
            f"must name at least one modality, none twice, not {list(self.modalities)}",
        )  # fmt: skip
