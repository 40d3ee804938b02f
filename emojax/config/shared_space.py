"""The contrastive stage."""

from __future__ import annotations

import dataclasses
from typing import Literal

from emojax.config.checks import positive
from emojax.config.inputs import InputConfig


@dataclasses.dataclass(frozen=True)
class SharedSpaceConfig(InputConfig):
    """One space for all modalities, learned by contrast; a linear decision is read off it."""

    name: Literal["shared_space"] = "shared_space"
    layers: int = 1
    """Hidden layers of a modality."""
    units: int = 64
    """E, dimensions of the space."""
    contrast: Literal["symmetric", "supervised"] = "symmetric"
    """What belongs together: the modalities of an utterance, which needs no label, or those of all
    utterances with the same label."""
    temperature: float = 0.1
    """What similarities are divided by in the beginning; it is learned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "model", "temperature")
