"""The loop of fine-tuning: epochs of steps, validation, selection, and what is left at the end."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from emojax.dist.compiler import return_memory_after_compiling
from emojax.errors import NonFiniteError
from emojax.evaluate.metrics import score
from emojax.train.alone import alone
from emojax.train.checkpoint import Checkpoints
from emojax.train.finetune.examples import Slice
from emojax.train.finetune.optimiser import rates_of
from emojax.train.finetune.outcome import finish, finished
from emojax.train.finetune.predict import log_probabilities, make_predict
from emojax.train.finetune.run import Tuning
from emojax.train.finetune.step import Program, TuneState, initial_state, make_step
from emojax.train.halting import NEVER
from emojax.train.interruption import Interrupted, Sigterm
from emojax.train.log import MetricLog, Watch
from emojax.train.objective import class_weights
from emojax.train.progress import better, told
from emojax.types import UNLABELLED

IN_FLIGHT = 2
"""Steps whose metrics are not asked for yet: the host stays ahead of the device."""


@dataclasses.dataclass
class Notes:
    """What a fine-tuning knows of itself besides its arrays.

    Attributes:
      epoch, index: of the step that comes next.
      history: a record for every finished epoch.
      best: the record that validation prefers so far, or None.
      loss_sum: of the epoch under way, over utterances. seconds: wall time of all sittings.
      log_size: bytes of the metrics log.
    """

    epoch: int = 0
    index: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best: dict[str, Any] | None = None
    loss_sum: float = 0.0
    seconds: float = 0.0
    log_size: int = 0


class Memory:
    """Stands in for `Checkpoints` where a run is so short that it had better be done again."""

    def __init__(self) -> None:
        self._saved: tuple[int, Any, dict[str, Any]] | None = None

    def save(self, step: int, tree: Any, notes: dict[str, Any]) -> None:
        self._saved = step, jax.tree.map(jnp.copy, tree), notes

    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        return self._saved

    def wait(self) -> None:
        pass

    def close(self) -> None:
        pass


def finetune(
    tuning: Tuning, console: Console, *, quiet: bool = False, volatile: bool = False
) -> dict[str, Any]:
    """Train from the newest checkpoint, or from nothing, to the end; returns `result.json`.

    What is finished is not done again.

    Args:
      volatile: keep no checkpoints on disk: what is interrupted starts again.

    Raises:
      NonFiniteError: a loss, gradient or probability was not finite.
      CheckpointError: a checkpoint or the log cannot be written, or all checkpoints are damaged.
      Interrupted: SIGTERM arrived; everything was saved.
      ConfigError: another process works in the folder.
    """
    started = time.monotonic()
    return_memory_after_compiling()
    with contextlib.ExitStack() as stack:
        sigterm = stack.enter_context(Sigterm())
        stack.enter_context(alone(tuning.folder))
        if (done := finished(tuning.folder)) is not None:
            return done
        program = program_of(tuning)
        state, frozen = initial_state(
            program, tuning.encoder.variables["params"] if tuning.config.text.pretrained else None,
            tuning.config.train.seed,
        )  # fmt: skip
        folder = tuning.folder / "checkpoints"
        last = Memory() if volatile else Checkpoints(folder / "last", keep=2)
        best = Memory() if volatile else Checkpoints(folder / "best", keep=1)
        stack.callback(last.close)
        stack.callback(best.close)
        notes = Notes()
        if (restored := last.restore(state)) is not None:
            _, state, saved = restored
            notes = Notes(**saved)
        log = MetricLog(tuning.folder)
        stack.callback(log.close)
        log.rewind(notes.log_size, int(state.step))
        loop = _Loop(tuning, program, frozen, last, best, log, notes, sigterm, started)
        watch = Watch(
            console, epochs=tuning.config.train.epochs, steps=loop.steps, done=int(state.step),
            quiet=quiet, unit="utterances",
        )  # fmt: skip
        stack.callback(watch.close)
        loop.run(state, watch)
        chosen = best.restore(state.evaluated())
        assert chosen is not None, "an epoch has ended"
        seconds = notes.seconds + time.monotonic() - started
        result = finish(tuning, program, chosen[1], frozen, dataclasses.asdict(notes), seconds)
    if not volatile:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def program_of(tuning: Tuning) -> Program:
    """What is compiled for a fine-tuning."""
    classes, train = len(tuning.signature.labels), tuning.config.train
    label = tuning.examples["train"].label
    counts = np.bincount(label[label != UNLABELLED], minlength=classes)
    weights = class_weights(train, counts)
    return Program(
        tuning.encoder.config, classes, tuning.config.text, train,
        None if weights is None else tuple(weights.tolist()),
    )  # fmt: skip


class _Loop:
    """The loop's moving parts, so that its methods read as sentences."""

    def __init__(
        self, tuning: Tuning, program: Program, frozen: Any, last: Any, best: Any, log: MetricLog,
        notes: Notes, sigterm: Sigterm, started: float,
    ):  # fmt: skip
        self.tuning, self.config, self.frozen = tuning, tuning.config.train, frozen
        self.last, self.best, self.log, self.notes = last, best, log, notes
        self.sigterm, self.started, self.earlier = sigterm, started, notes.seconds
        self.train_step, self.predict = make_step(program), make_predict(program)
        self.training, self.size = tuning.examples["train"], tuning.config.data.batch
        self.labelled = int((self.training.label != UNLABELLED).sum())
        # As many in every epoch.
        self.steps = len(self.plan(0)) * self.config.epochs
        self.rates = rates_of(self.config, program.sizes.layers, self.steps)
        self.in_flight: collections.deque[tuple[int, Slice, Any]] = collections.deque()

    def plan(self, epoch: int) -> list[Slice]:
        """The batches of an epoch."""
        return self.training.plan(self.tuning.lengths, self.size, (self.config.seed, epoch))

    def run(self, state: TuneState, watch: Watch) -> None:
        notes, step = self.notes, int(state.step)
        while notes.epoch < self.config.epochs:
            plan, began, taken = self.plan(notes.epoch), time.monotonic(), 0
            for part in plan[notes.index :]:
                if self.sigterm.arrived:
                    self.save(state, step, watch)
                    self.last.wait()
                    raise Interrupted(f"stopped at step {step}; resume with --resume")
                given = jax.device_put((self.training.batch(part, self.size), self.rates[step]))
                # Anything that is copied between host and device unasked is a bug.
                with jax.transfer_guard("disallow"):
                    state, metrics = self.train_step(state, self.frozen, *given)
                self.in_flight.append((step, part, metrics))
                step, notes.index, taken = step + 1, notes.index + 1, taken + len(part.rows)
                if len(self.in_flight) > IN_FLIGHT:
                    self.account(watch, taken / (time.monotonic() - began))
                if step % self.config.checkpoint_every == 0 and notes.index < len(plan):
                    self.save(state, step, watch)
            self.drain(watch)
            self.end_epoch(state, step, taken, time.monotonic() - began, watch)
            self.save(state, step, watch)

    def account(self, watch: Watch, rate: float = 0.0) -> None:
        """Read the metrics of the oldest step in flight."""
        step, part, metrics = self.in_flight.popleft()
        values = jax.device_get(metrics)
        if values["halted"] != NEVER:
            found = self.training
            ids = [found.conversations[found.place[row, 0]].id for row in part.rows]
            raise self.lost(
                f"step {step}: the loss ({values['loss']}) or the gradient norm "
                f"({values['gradient_norm']}) is not finite. Conversations of the batch: "
                f"{', '.join(sorted(set(ids)))}"
            )
        summed = float(values["loss"]) * self.size
        self.notes.loss_sum += summed
        record = {
            "epoch": self.notes.epoch, "loss": (loss := summed / len(part.rows)),
            "gradient_norm": float(values["gradient_norm"]),
            "learning_rate": float(self.rates[step, -1]),
        }  # fmt: skip
        self.log.write(step, record)
        watch.step(self.notes.epoch, loss, rate)

    def lost(self, problem: str) -> NonFiniteError:
        self.last.wait()
        return NonFiniteError(
            f"{problem}. A lower train.learning_rate or train.head_learning_rate may help"
        )

    def drain(self, watch: Watch) -> None:
        while self.in_flight:
            self.account(watch)

    def end_epoch(
        self, state: TuneState, step: int, taken: int, seconds: float, watch: Watch
    ) -> None:
        notes, examples = self.notes, self.tuning.examples["validation"]
        found = log_probabilities(
            self.predict, state.evaluated(), self.frozen, examples, self.tuning.lengths, self.size
        )
        if not np.isfinite(found).all():
            raise self.lost(f"step {step}: validation probabilities are not finite")
        scores = score(examples.predictions(np.exp(found)), found.shape[-1])
        record: dict[str, Any] = {
            "epoch": notes.epoch, "step": step,
            "train_loss": notes.loss_sum / self.labelled, "validation": told(scores),
            "seconds": seconds, "utterances_per_second": taken / seconds,
        }  # fmt: skip
        metric = self.config.select
        is_best = notes.best is None or better(
            self.config, record["validation"][metric], notes.best["validation"][metric]
        )
        notes.history.append(record)
        if is_best:
            notes.best = record
            self.best.save(step, state.evaluated(), {"record": record})
        self.log.write(step, {name: value for name, value in record.items() if name != "step"})
        watch.epoch(record, metric, is_best)
        notes.epoch, notes.index, notes.loss_sum = notes.epoch + 1, 0, 0.0

    def save(self, state: TuneState, step: int, watch: Watch) -> None:
        self.drain(watch)
        self.notes.log_size = self.log.flush()
        self.notes.seconds = self.earlier + time.monotonic() - self.started
        # Notes that name a best epoch must not be on disk before that epoch is.
        self.best.wait()
        self.last.save(step, state, dataclasses.asdict(self.notes))
