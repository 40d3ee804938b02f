"""How to train."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from emojax.config.checks import choices, fraction, positive, require

Metric = Literal["weighted_f1", "macro_f1", "accuracy", "nll"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train and how to select."""

    epochs: int = 5
    seed: int = 0
    optimiser: Literal["adamw", "adam_l2"] = "adamw"
    """AdamW, or the authors' Adam with the decay added to the gradient."""
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.05
    """Share of the steps during which the rate rises; it then falls along a cosine."""
    schedule_per_epoch: bool = False
    """Hold the rate within an epoch, as the authors do."""
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    initialise_from: str = ""
    """The folder of a run on features of the same widths, such as one of `shared_space`: what
    parameters there have the name and shape of one here are where training starts."""
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs a class by the inverse of its share of the training labels."""
    auxiliary_weight: float = 0.0
    """Weight of each modality's own loss; with 0 the modalities' own logits stay untrained."""
    auxiliary_power: Literal[1, 2] = 1
    """The authors square the modalities' losses."""
    distillation_weight: float = 0.0
    """Weight of how far each modality's own distribution is from that of all, which it learns from
    (SDT, arXiv:2310.20494)."""
    distillation_temperature: float = 1.0
    """What both logits are divided by before they are compared."""
    ema_decay: float = 0.99
    """Decay of a moving average of the parameters, which is then what is evaluated; 0 is none."""
    select: Metric = "weighted_f1"
    """Validation metric that picks the epoch."""
    select_last: bool = False
    """Take the last epoch whatever validation says: for corpora whose features were learned on the
    labels of the validation conversations, which then prefer whoever trusts the features most."""
    watch_test: bool = False
    """Score the test split after each epoch too. That selects nothing, and is there to measure what
    selecting by it would add (`experiments.studies.protocol`)."""
    patience: int | None = None
    """Stop after this many epochs without a better validation score."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; None saves at the end of each epoch."""
    accumulate: int = 1
    """Micro-batches of a step, one after the other: memory for a share of the rows, and but for the
    draws of dropout the gradient of all of them."""
    remat: Literal["none", "products", "layers"] = "none"
    """What the backward pass computes anew to save memory: nothing; in each layer all but matrix
    products; each layer from its input."""

    def __post_init__(self) -> None:
        choices(self, "train")
        positive(self, "train", "epochs", "learning_rate", "accumulate", "distillation_temperature")
        fraction(self, "train", "warmup", "label_smoothing", "ema_decay")
        for name in (
            "weight_decay",
            "auxiliary_weight",
            "distillation_weight",
            "final_learning_rate",
        ):
            value = getattr(self, name)
            require(
                0 <= value < math.inf, f"train.{name}", f"must be 0 or more and finite, not {value}"
            )
        for name in ("clip_norm", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                positive(self, "train", name)
        # The seeds that the generators of jax and numpy both take, and keep apart.
        require(0 <= self.seed < 2**32, "train.seed", f"must be in [0, 2^32), not {self.seed}")
        require(
            not (self.schedule_per_epoch and self.warmup > 0), "train.warmup",
            "must be 0 with train.schedule_per_epoch, or the whole first epoch has a rate of 0",
        )  # fmt: skip
