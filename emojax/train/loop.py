"""The training loop: epochs of steps, validation, selection, checkpoints, interruption."""

from __future__ import annotations

import collections
import contextlib
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from rich.console import Console

from emojax.config import digest
from emojax.data.packing import plan_epoch
from emojax.data.pipeline import Batches, PackedBatch
from emojax.dist import processes
from emojax.dist.compiler import return_memory_after_compiling
from emojax.dist.mesh import key_everywhere, mesh_here, put_batch
from emojax.errors import NonFiniteError
from emojax.evaluate.predict import make_predict, predict_split
from emojax.train.alone import alone
from emojax.train.books import ADVICE, Books
from emojax.train.checkpoint import Checkpoints
from emojax.train.interruption import Interrupted, Sigterm
from emojax.train.log import MetricLog, NoLog, Watch
from emojax.train.objective import class_weights
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.profile import Profiler
from emojax.train.progress import Progress, forget_peak_memory
from emojax.train.reads import count_read
from emojax.train.run import Run
from emojax.train.step import TrainState, make_initial_state, make_train_step
from emojax.train.transfer import lent, starting_from
from emojax.types import Batch, Prediction

MANY = 0.25
"""Share of empty rows from which it is said that they are many."""
STOP_EVERY = 4
"""Steps after which processes ask one another whether any of them is to stop."""
IN_FLIGHT = 2
"""Steps whose metrics are not asked for yet: the host stays ahead of the device."""


def train(
    run: Run, console: Console, *, quiet: bool = False, profile: Path | None = None
) -> Progress:
    """Train from the newest checkpoint, or from nothing, to the end of the last epoch.

    Args:
      profile: folder for a trace of a few steps.

    Raises:
      NonFiniteError: a loss, gradient or validation score was not finite. The last good checkpoint
        is left.
      CheckpointError: a checkpoint or the log cannot be written, or all checkpoints are damaged.
      Interrupted: SIGTERM arrived; everything was saved.
      ConfigError: another process trains in the run's folder.
    """
    started = time.monotonic()
    return_memory_after_compiling()
    forget_peak_memory()
    with contextlib.ExitStack() as stack:
        sigterm = stack.enter_context(Sigterm())
        if processes.first():
            stack.enter_context(alone(run.folder))
        config = run.config.train
        mesh = mesh_here(run.config.mesh)
        training = run.batches("train", training=True, mesh=mesh)
        _warn_of_empty_rows(training)
        epoch_steps = [len(training.plan(epoch)) for epoch in range(config.epochs)]
        schedule = build_schedule(config, epoch_steps)
        optimiser = build_optimiser(config, schedule)
        step_function = make_train_step(
            run.model, optimiser, config, schedule,
            class_weights(config, run.corpus.statistics.label_counts), mesh,
        )  # fmt: skip
        iterator = iter(training.prefetched())
        stack.callback(iterator.close)
        progress = Progress(iterator=iterator.get_state())

        first = put(next(training.one_epoch()), mesh)
        initial_state = make_initial_state(run.model, optimiser, config, mesh)
        given = key_everywhere(config.seed, mesh), first, run.collection()
        lowered = step_function.lower(initial_state.trace(*given).out_info, first)
        with _compiling(lowered):
            state = initial_state(*given)
        last, best = Checkpoints(run.last, keep=2), Checkpoints(run.best, keep=1)
        stack.callback(last.close)
        stack.callback(best.close)
        restored = last.restore(state)
        if restored is None:
            state = starting_from(state, lent(run))
        else:
            _, state, notes = restored
            progress = Progress(**notes)
            iterator.set_state(progress.iterator)

        log = MetricLog(run.folder) if processes.first() else NoLog()
        stack.callback(log.close)
        log.rewind(progress.log_size, int(state.step))
        watch = Watch(
            console,
            epochs=config.epochs,
            steps=sum(epoch_steps),
            done=int(state.step),
            quiet=quiet or not processes.first(),
        )
        stack.callback(watch.close)
        profiler = Profiler(profile)
        stack.callback(profiler.close)
        loop = _Loop(
            Books(run, progress, log), mesh, step_function, iterator, last, best, watch, sigterm,
            started, profiler,
        )  # fmt: skip
        loop.run(state)
        profiler.end()
        last.wait()
    return progress


def _warn_of_empty_rows(batches: Batches) -> None:
    """Rows that only fill the mesh cost as much as others."""
    rows = sum(len(plan.rows) for plan in batches.plan(0))
    alone = plan_epoch(batches.lengths, batches.config, seed=batches.seed)
    empty = 1 - sum(len(plan.rows) for plan in alone) / rows
    if empty >= MANY and processes.first():
        warnings.warn(
            f"{empty:.0%} of all rows are empty, because batches need a multiple of "
            f"{batches.rows_multiple} rows (mesh.data x mesh.fsdp x train.accumulate). A larger "
            "data.batch_utterances or data.batch_conversations fills them", stacklevel=2,
        )  # fmt: skip


def put(packed: PackedBatch, mesh: Mesh | None) -> Batch:
    return put_batch(packed.batch, packed.held, len(packed.rows), mesh)


@contextlib.contextmanager
def _compiling(lowered: jax.stages.Lowered) -> Iterator[None]:
    """Compiles on another thread; the call finds it done, or meets again what went wrong."""
    with ThreadPoolExecutor(1) as background:
        background.submit(lowered.compile)
        yield


class _Loop:
    """The loop's moving parts, so that its methods read as sentences."""

    def __init__(
        self, books: Books, mesh: Mesh | None, step_function: Callable, iterator: Any,
        last: Checkpoints, best: Checkpoints, watch: Watch, sigterm: Sigterm, started: float,
        profiler: Profiler,
    ):  # fmt: skip
        run, progress = books.run, books.progress
        self.books, self.mesh, self.config = books, mesh, run.config.train
        self.step_function, self.iterator = step_function, iterator
        self.validation = run.batches("validation", mesh=mesh)
        self.test = run.batches("test", mesh=mesh) if self.config.watch_test else None
        self.predict = make_predict(run.model, explain=False, mesh=mesh)
        self.progress, self.last, self.best = progress, last, best
        self.watch, self.sigterm = watch, sigterm
        self.in_flight: collections.deque[tuple[int, PackedBatch, Any]] = collections.deque()
        self.profiler = profiler
        self.earlier, self.started = progress.seconds, started
        self.stopping = processes.Agreement(STOP_EVERY)

    def run(self, state: TrainState) -> TrainState:
        epoch_started, conversations = time.monotonic(), 0
        step = int(state.step)
        while not self.progress.finished(self.config):
            if self.stopping(step, self.sigterm.arrived):
                self.save(state, step)
                self.last.wait()
                raise Interrupted(f"stopped at step {step}; resume with --resume")
            packed = next(self.iterator)
            batch = put(packed, self.mesh)
            # Anything that is copied between host and device unasked is a bug.
            shape = jax.tree.structure(batch), batch.segment.shape
            with self.profiler.step(step, shape), jax.transfer_guard("disallow"):
                state, metrics = self.step_function(state, batch)
            self.profiler.rest(state)
            self.in_flight.append((step, packed, metrics))
            step += 1
            conversations += sum(map(len, packed.rows))
            if len(self.in_flight) > IN_FLIGHT:
                self.account(state, conversations / (time.monotonic() - epoch_started))
            if packed.last:
                self.drain(state)
                seconds = time.monotonic() - epoch_started
                self.end_epoch(state, packed.epoch, step, seconds, conversations)
                epoch_started, conversations = time.monotonic(), 0
                self.save(state, step)
            elif self.config.checkpoint_every and step % self.config.checkpoint_every == 0:
                self.save(state, step)
        return state

    def account(self, state: TrainState, rate: float = 0.0) -> None:
        """Read the metrics of the oldest step in flight."""
        step, packed, metrics = self.in_flight.popleft()
        with self.told():
            loss = self.books.step(step, packed, jax.device_get(metrics))
        self.watch.step(packed.epoch, loss, rate)

    def drain(self, state: TrainState) -> None:
        while self.in_flight:
            self.account(state)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Where numbers are not finite, say what is left."""
        try:
            yield
        except NonFiniteError as error:
            self.last.wait()
            kept = self.last.steps()
            left = f"The last good checkpoint is that of step {kept[-1]}" if kept else (
                "There is no checkpoint yet"
            )  # fmt: skip
            raise NonFiniteError(f"{error}. {left}. {ADVICE}") from None

    def end_epoch(
        self, state: TrainState, epoch: int, step: int, seconds: float, conversations: int
    ) -> None:
        predictions = self.predictions(state, self.validation)
        test = None
        if self.test is not None:
            if processes.first():
                count_read(self.books.run.folder, digest(self.books.run.config))
            test = self.predictions(state, self.test)
        with self.told():
            is_best = self.books.epoch(
                epoch, step, predictions, test, seconds=seconds, conversations=conversations
            )
        record = self.progress.history[-1]
        if is_best:
            if not processes.alone():
                self.last.wait()  # Orbax cannot write two series at once among processes.
            self.best.save(step, state.variables(), {"record": record})
        self.watch.epoch(record, self.config.select, is_best)

    def predictions(self, state: TrainState, batches: Batches) -> list[Prediction]:
        """Of the conversations of a split."""
        return predict_split(self.predict, state.variables(), batches, mesh=self.mesh)

    def save(self, state: TrainState, step: int) -> None:
        self.drain(state)
        seconds = self.earlier + time.monotonic() - self.started
        notes = self.books.notes(self.iterator.get_state(), seconds)
        # Notes that name a best epoch must not be on disk before that epoch is.
        self.best.wait()
        self.last.save(step, state, notes)
