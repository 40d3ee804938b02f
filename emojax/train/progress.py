"""What a run knows of itself besides its arrays: its epochs, and which of them is the best."""

from __future__ import annotations

import contextlib
import dataclasses
import resource
import sys
from pathlib import Path
from typing import Any

from emojax.config import TrainConfig
from emojax.config.finetune import TuneConfig
from emojax.evaluate.metrics import Scores


def better(config: TrainConfig | TuneConfig, value: float, than: float) -> bool:
    """Whether a validation score beats another; of equals the earlier epoch stays."""
    return value < than if config.select == "nll" else value > than


@dataclasses.dataclass
class Progress:
    """What a run knows of itself besides its arrays; saved as the notes of a checkpoint.

    Attributes:
      iterator: position in the data.
      history: a record for every finished epoch.
      best: the record that validation prefers so far, or None.
      loss_sum, loss_count: of the epoch under way.
      seconds: wall time of all sittings.
      peak_memory: largest resident size of a sitting, MiB.
      log_size: bytes of the metrics log.
      lanes: how many runs were one program; seconds are then this run's share of its time, and
        memory is that of all.
    """

    iterator: dict[str, Any]
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    seconds: float = 0.0
    peak_memory: float = 0.0
    log_size: int = 0
    lanes: int = 1

    def finished(self, config: TrainConfig) -> bool:
        """Whether all epochs are done, or too many without a better score."""
        done = len(self.history)
        if done >= config.epochs:
            return True
        return bool(
            config.patience and self.best and done - 1 - self.best["epoch"] >= config.patience
        )

    def add_loss(self, loss: float) -> None:
        """That of a step of the epoch under way."""
        self.loss_sum += loss
        self.loss_count += 1

    def end_epoch(
        self, config: TrainConfig, scores: Scores, *, step: int, seconds: float, conversations: int,
        test: Scores | None = None,
    ) -> bool:  # fmt: skip
        """Add the record of an epoch; returns whether validation prefers it to all before.

        Args:
          scores: on validation.
          test: with `train.watch_test`; they stand in the record and select nothing.
        """
        record: dict[str, Any] = {
            "epoch": len(self.history),
            "step": step,
            "train_loss": self.loss_sum / max(self.loss_count, 1),
            "validation": told(scores),
            **({} if test is None else {"test": told(test)}),
            "seconds": seconds,
            "conversations_per_second": conversations / seconds,
        }  # fmt: skip
        is_best = (
            self.best is None
            or config.select_last
            or better(
                config, record["validation"][config.select], self.best["validation"][config.select]
            )
        )
        self.history.append(record)
        self.loss_sum, self.loss_count = 0.0, 0
        if is_best:
            self.best = record
        return is_best

    def sit(self, seconds: float) -> None:
        """Note how long the run has taken so far, and how much memory this sitting."""
        self.seconds = seconds
        self.peak_memory = max(self.peak_memory, _peak_memory())


def told(scores: Scores) -> dict[str, float]:
    names = "accuracy", "weighted_f1", "macro_f1", "nll", "ece"
    return {name: getattr(scores, name) for name in names}


def forget_peak_memory() -> None:
    """From now on the peak is that of what follows, not of all that the process has done.

    Where the system does not offer that (other than Linux), the peak stays the process's.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory() -> float:
    """Largest resident size of this process so far, MiB (Linux counts KiB, macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
