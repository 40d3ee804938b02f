"""What is written down of a run while it trains: of steps, of epochs, and why it was lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from emojax.data.pipeline import PackedBatch
from emojax.errors import NonFiniteError
from emojax.evaluate.metrics import score
from emojax.train.halting import NEVER
from emojax.train.log import MetricLog
from emojax.train.progress import Progress
from emojax.train.run import Run
from emojax.types import Prediction

ADVICE = "A lower train.learning_rate or a train.clip_norm may help"
"""What to do about numbers that are not finite."""


@dataclasses.dataclass
class Books:
    """A run's progress and log, which say the same."""

    run: Run
    progress: Progress
    log: MetricLog

    def step(self, step: int, packed: PackedBatch, values: dict[str, Any]) -> float:
        """Write down a step.

        Args:
          values: the step's metrics, see `train.step.advance`.

        Returns:
          The loss.

        Raises:
          NonFiniteError: the step was not taken.
        """
        if values["halted"] != NEVER:
            ids = self.run.corpus.ids("train")
            self._lost(
                step, packed.epoch, [ids[index] for row in packed.rows for index in row],
                f"the loss ({values['loss']}) or the gradient norm ({values['gradient_norm']}) is "
                "not finite. Conversations of the batch",
            )  # fmt: skip
        told = {name: float(values[name]) for name in ("loss", "gradient_norm", "learning_rate")}
        self.progress.add_loss(told["loss"])
        self.log.write(step, {"epoch": packed.epoch, **told})
        return told["loss"]

    def epoch(
        self, epoch: int, step: int, validation: Sequence[Prediction],
        test: Sequence[Prediction] | None, *, seconds: float, conversations: int,
    ) -> bool:  # fmt: skip
        """Write down an epoch; see `Progress.end_epoch`.

        Raises:
          NonFiniteError: a probability is not finite.
        """
        bad = [each.id for each in validation if not np.isfinite(each.probability).all()]
        if bad:
            problem = "validation probabilities are not finite. Conversations"
            self._lost(step, epoch, bad, problem)
        classes = len(self.run.corpus.signature.labels)
        is_best = self.progress.end_epoch(
            self.run.config.train, score(validation, classes), step=step, seconds=seconds,
            conversations=conversations, test=None if test is None else score(test, classes),
        )  # fmt: skip
        record = self.progress.history[-1]
        self.log.write(step, {name: value for name, value in record.items() if name != "step"})
        return is_best

    def notes(self, position: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What a checkpoint says of the run, with the log on disk as far as it says.

        Args:
          position: in the data.
          seconds: see `Progress.sit`.
        """
        self.progress.iterator = position
        self.progress.log_size = self.log.flush()
        self.progress.sit(seconds)
        return dataclasses.asdict(self.progress)

    def _lost(self, step: int, epoch: int, names: Sequence[str], problem: str) -> NoReturn:
        """The state is that of before the bad step: later steps left it alone."""
        self.log.write(step, {"epoch": epoch, "not_finite": list(names)})
        self.log.flush()
        raise NonFiniteError(f"step {step} (epoch {epoch + 1}): {problem}: {', '.join(names)}")
