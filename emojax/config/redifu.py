"""Both ReDiFus."""

from __future__ import annotations

import dataclasses
from typing import Literal

from emojax.config.checks import choices, fraction, positive, require
from emojax.config.inputs import Dtype, InputConfig


@dataclasses.dataclass(frozen=True)
class RedifuConfig(InputConfig):
    """Our ReDiFu; every field is an ablation (specification, section 3)."""

    name: Literal["redifu"] = "redifu"
    heads: int = 4
    """H."""
    encoder_layers: int = 1
    """Differential Transformer layers of audio and of video; 0 leaves them out."""
    attention: Literal["temporal", "dual", "v2", "none"] = "dual"
    """The second map: shifted keys, a second head group, the same with a lambda per token, or no
    second map at all."""
    lambda_init: float | None = None
    """Where lambda starts; None is .8 - .6 exp(-.3 depth) for "dual" (arXiv:2410.05258) and .5 for
    "temporal". "v2" learns it for each token from a gate that starts at .5."""
    delta: bool = True
    """Add a gated depthwise convolution over time to audio and video."""
    graph_layers: int = 2
    """Relation-graph layers over utterance x modality nodes; 0 leaves them out."""
    graph_heads: int = 4
    """Heads of the relation graph."""
    window: int = 5
    """W, reach of the relation graph in utterances."""
    cross_modal: Literal["none", "utterance", "window"] = "window"
    """Edges between modalities: none, within an utterance, or within the window."""
    speaker_relations: bool = True
    """Tell same from other speaker on the edges."""
    diffusion_steps: int = 2
    """K, steps of the text-guided diffusion; 0 injects audio and video undiffused."""
    gates: bool = True
    """Gates of the diffusion: how much of audio against video it starts from, and how much of its
    end the text takes. Without them it is the mean of those that are there, and all of it."""
    text_guidance: bool = True
    """Inject audiovisual information into the text stream at all."""
    chain: bool = True
    """Smooth decisions along the conversation with a hidden Markov chain: emotions persist in a
    speaker and spread to the others."""
    feed_forward_ratio: int = 2
    attention_dropout: float = 0.0
    """Dropout of attention maps; the dearest kind, because maps are the largest arrays."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "model", "attention_dropout")
        if self.lambda_init is not None:
            fraction(self, "model", "lambda_init")
            require(
                self.attention in ("temporal", "dual"), "model.lambda_init",
                f'is for model.attention = "temporal" or "dual", not "{self.attention}"',
            )  # fmt: skip
        groups = 2 * self.heads
        require(
            self.width % groups == 0, "model.width",
            f"must be a multiple of 2 x model.heads = {groups}, not {self.width}",
        )  # fmt: skip
        require(
            self.width % self.graph_heads == 0, "model.graph_heads",
            f"must divide model.width = {self.width}, not {self.graph_heads}",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RedifuAuthorsConfig:
    """ReDiFu as published; needs `data.layout = "padded"`."""

    name: Literal["redifu_authors"] = "redifu_authors"
    branch: Literal["iemocap", "meld"] = "iemocap"
    width: int = 512
    heads: int = 64
    window: int = 20
    dropout: float = 0.5
    graph_dropout: float = 0.2
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        choices(self, "model")
        positive(self, "model", "width", "heads", "window")
        fraction(self, "model", "dropout", "graph_dropout")
        require(
            self.width % self.heads == 0 and self.width % 2 == 0, "model.width",
            f"must be even and a multiple of model.heads = {self.heads}, not {self.width}",
        )  # fmt: skip
        require(
            self.branch == "meld" or self.heads % 2 == 0, "model.heads",
            f"must be even on the IEMOCAP branch, not {self.heads}",
        )  # fmt: skip
