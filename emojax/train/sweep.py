"""Training of several runs as one program: the loop of `train.loop`, for lanes.

The runs keep their own folders, in which at the end lies what each would have left by itself. While
they train, one series of checkpoints holds all of them.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from emojax.config import digest
from emojax.config.swept import structure
from emojax.data.pipeline import Batches, StackedBatch, StackedBatches
from emojax.dist import processes
from emojax.dist.compiler import return_memory_after_compiling
from emojax.errors import CheckpointError, ConfigError, NonFiniteError
from emojax.evaluate.predict import Found, predictions_of
from emojax.files import write_atomically
from emojax.train.alone import alone
from emojax.train.books import ADVICE, Books
from emojax.train.checkpoint import Checkpoints
from emojax.train.interruption import Interrupted, Sigterm
from emojax.train.lanes import Lanes, lane
from emojax.train.log import MetricLog, Watch
from emojax.train.loop import IN_FLIGHT
from emojax.train.objective import class_weights
from emojax.train.progress import Progress, forget_peak_memory
from emojax.train.reads import count_read
from emojax.train.run import LAST, Run
from emojax.train.step import TrainState
from emojax.train.transfer import lent
from emojax.types import Prediction


def sweep(
    runs: Sequence[Run], folder: Path, console: Console, *, quiet: bool = False,
    at_once: int | None = None,
) -> list[Progress]:  # fmt: skip
    """Train runs that differ in seeds and in settings that `config.swept` names, as one program.

    Each has the initial parameters, the order of data and the keys that it has when it is trained
    by itself, and ends with the same files; parameters differ from those by rounding alone. Lanes
    are divided over this process's devices. Goes on from the newest checkpoint in `folder`.

    Args:
      folder: of the sweep.
      at_once: see `Lanes`.

    Raises:
      ConfigError: the runs are not one program; the folder holds another sweep.
      NonFiniteError: runs whose loss, gradient or validation score was not finite, when all others
        are finished. Their last good epoch is left.
      CheckpointError, Interrupted: see `train.loop.train`.
    """
    started = time.monotonic()
    return_memory_after_compiling()
    forget_peak_memory()
    check(runs)
    with contextlib.ExitStack() as stack:
        sigterm = stack.enter_context(Sigterm())
        _claim(folder, runs)
        stack.enter_context(alone(folder))
        loop = _Sweep(runs, folder, sigterm, started, at_once, stack)
        config = runs[0].config.train
        watch = Watch(
            console, epochs=config.epochs, steps=sum(loop.epoch_steps), done=loop.step,
            quiet=quiet,
        )  # fmt: skip
        stack.callback(watch.close)
        loop.run(watch)
        loop.deliver()
    if problems := [problem for problem in loop.problems if problem]:
        raise NonFiniteError("\n".join(problems))
    return loop.progress


def check(runs: Sequence[Run]) -> None:
    """Raises `ConfigError` if these runs cannot be one program."""
    if not processes.alone():
        raise ConfigError("a sweep runs in one process. Give each process runs of its own")
    first = runs[0].config
    if any(size > 1 for size in (first.mesh.fsdp, first.mesh.sequence, first.mesh.model)):
        raise ConfigError(
            "mesh: in a sweep each run has one device; mesh.fsdp, mesh.sequence and mesh.model "
            "must be 1"
        )
    for run in runs[1:]:
        if structure(run.config) != structure(first):
            raise ConfigError(
                f"{run.folder} and {runs[0].folder} are not one program: they differ in more than "
                "the seed and the settings that emojax.config.swept names"
            )
        if run.corpus.hashes != runs[0].corpus.hashes:
            raise ConfigError(f"{run.folder} and {runs[0].folder} are of different corpora")


def _claim(folder: Path, runs: Sequence[Run]) -> None:
    """Write down whose sweep this is, or see that it is theirs."""
    path = folder / "sweep.json"
    lanes = [digest(run.config) for run in runs]
    try:
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps({"lanes": lanes}, indent=1) + "\n")
        found = json.loads(path.read_text(encoding="utf-8"))["lanes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be used: {error}") from error
    if found != lanes:
        raise ConfigError(f"{folder} holds a sweep of other runs. Choose another folder")


class _Sweep:
    """The loop's moving parts; see `train.loop._Loop`, whose sentences these are in the plural."""

    def __init__(
        self, runs: Sequence[Run], folder: Path, sigterm: Sigterm, started: float,
        at_once: int | None, stack: contextlib.ExitStack,
    ):  # fmt: skip
        first = runs[0]
        self.runs, self.config, self.sigterm = runs, first.config.train, sigterm
        training = first.batches("train", training=True)
        self.epoch_steps = [len(training.plan(epoch)) for epoch in range(self.config.epochs)]
        self.lanes = Lanes(
            [run.config for run in runs], first.model, self.epoch_steps,
            class_weights(self.config, first.corpus.statistics.label_counts),
            devices=jax.local_devices(), at_once=at_once,
        )  # fmt: skip
        orders = [training.reseeded(config.train.seed) for config in self.lanes.configs]
        self.iterator: Any = iter(StackedBatches(orders).prefetched())
        stack.callback(self.iterator.close)
        self.validation = first.batches("validation")
        self.test = first.batches("test") if self.config.watch_test else None

        self.last = Checkpoints(folder / LAST, keep=2)
        stack.callback(self.last.close)
        position = self.iterator.get_state()
        self.progress = [Progress(iterator=position, lanes=len(runs)) for _ in runs]
        self.problems = [""] * len(runs)
        given = [] if self.last.steps() else [lent(run) for run in runs]
        self.state = self.lanes.initial(
            next(training.one_epoch()).batch, first.collection(), given
        )  # fmt: skip
        self.best = jax.tree.map(jnp.copy, self.state.variables())
        self.step = 0
        restored = self.last.restore({"state": self.state, "best": self.best})
        if restored is not None:
            self.step, tree, notes = restored
            self.state, self.best = tree["state"], tree["best"]
            self.progress = [Progress(**each) for each in notes["progress"]]
            self.problems = notes["problems"]
            self.iterator.set_state(self.progress[0].iterator)
        self.books = []
        for run, progress in zip(runs, self.progress, strict=True):
            log = MetricLog(run.folder)
            stack.callback(log.close)
            log.rewind(progress.log_size, self.step)
            self.books.append(Books(run, progress, log))
        self.in_flight: collections.deque[tuple[int, StackedBatch, Any]] = collections.deque()
        self.earlier, self.started = sum(p.seconds for p in self.progress), started

    def going(self) -> list[bool]:
        """Which runs are neither finished nor lost."""
        return [
            not problem and not progress.finished(self.config)
            for problem, progress in zip(self.problems, self.progress, strict=True)
        ]

    def put_going(self) -> jax.Array:
        more = [False] * (self.lanes.count - len(self.runs))
        return self.lanes.put(jnp.array([*self.going(), *more]))

    def run(self, watch: Watch) -> None:
        epoch_started, conversations = time.monotonic(), 0
        going = self.put_going()
        while any(self.going()):
            if self.sigterm.arrived:
                self.save()
                self.last.wait()
                raise Interrupted(f"stopped at step {self.step}; resume with --resume")
            stacked = next(self.iterator)
            batch = self.lanes.put(stacked.batch)
            # Anything that is copied between host and device unasked is a bug.
            with jax.transfer_guard("disallow"):
                self.state, metrics = self.lanes.step(self.state, batch, going)
            self.in_flight.append((self.step, stacked, metrics))
            self.step += 1
            one = stacked.lanes[0]
            conversations += sum(map(len, one.rows))
            if len(self.in_flight) > IN_FLIGHT:
                self.account(watch, conversations / (time.monotonic() - epoch_started))
            if one.last:
                self.drain(watch)
                seconds = time.monotonic() - epoch_started
                self.end_epoch(one.epoch, seconds, conversations, watch)
                going = self.put_going()
                epoch_started, conversations = time.monotonic(), 0
                self.save()
            elif self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self.drain(watch)
                self.save()

    def account(self, watch: Watch, rate: float = 0.0) -> None:
        """Read the metrics of the oldest step in flight."""
        step, stacked, metrics = self.in_flight.popleft()
        values, losses = jax.device_get(metrics), []
        going = self.going()
        for n in itertools.compress(range(len(going)), going):
            with self.told(n):
                of_lane = {name: each[n] for name, each in values.items()}
                losses.append(self.books[n].step(step, stacked.lanes[n], of_lane))
        if losses:
            watch.step(stacked.lanes[0].epoch, float(np.mean(losses)), sum(going) * rate)

    def drain(self, watch: Watch) -> None:
        while self.in_flight:
            self.account(watch)

    @contextlib.contextmanager
    def told(self, n: int) -> Iterator[None]:
        """A run whose numbers are not finite is lost, and the others go on."""
        try:
            yield
        except NonFiniteError as error:
            self.problems[n] = f"{self.runs[n].folder}: {error}. {ADVICE}"

    def end_epoch(self, epoch: int, seconds: float, conversations: int, watch: Watch) -> None:
        going = self.going()
        better = np.zeros(self.lanes.count, bool)
        test = self.test_predictions(going)
        for n, validation in enumerate(self.predictions(self.validation)):
            if going[n]:
                with self.told(n):
                    better[n] = self.books[n].epoch(
                        epoch, self.step, validation, test[n], seconds=seconds / sum(going),
                        conversations=conversations,
                    )  # fmt: skip
        self.best = self.lanes.keep(self.best, self.state.variables(), self.lanes.put(better))
        records = [
            progress.history[-1]
            for progress, went, problem in zip(self.progress, going, self.problems, strict=True)
            if went and not problem
        ]
        if records:
            watch.epoch(_mean(records), self.config.select, False)

    def test_predictions(self, going: Sequence[bool]) -> Sequence[list[Prediction] | None]:
        """Of each run, where the config wants them; see `train.watch_test`."""
        if self.test is None:
            return [None] * len(self.runs)
        for run in itertools.compress(self.runs, going):
            count_read(run.folder, digest(run.config))
        return self.predictions(self.test)

    def predictions(self, batches: Batches) -> list[list[Prediction]]:
        """Of each run, those for the conversations of a split."""
        found: list[dict[int, Prediction]] = [{} for _ in self.runs]
        for packed in batches.one_epoch():
            batch = self.lanes.share(packed.batch)
            each = jax.device_get(self.lanes.predict(self.state.variables(), batch))
            nothing = np.zeros((*each.shape[1:3], packed.batch.present.shape[-1]), np.float32)
            for mine, log_probability in zip(found, each, strict=False):
                mine |= predictions_of(packed, batches, Found(log_probability, nothing))
        return [[mine[index] for index in sorted(mine)] for mine in found]

    def save(self) -> None:
        seconds = (self.earlier + time.monotonic() - self.started) / len(self.runs)
        position = self.iterator.get_state()
        self.last.save(
            self.step, {"state": self.state, "best": self.best}, {
                "progress": [books.notes(position, seconds) for books in self.books],
                "problems": self.problems,
            },
        )  # fmt: skip

    def deliver(self) -> None:
        """Leave in each run's folder the checkpoints that it would have written by itself."""
        self.last.wait()
        for n, (run, progress) in enumerate(zip(self.runs, self.progress, strict=True)):
            if progress.best is not None:
                with contextlib.closing(Checkpoints(run.best, keep=1)) as series:
                    record = {"record": progress.best}
                    series.save(progress.best["step"], lane(self.best, n), record)
            if not self.problems[n]:
                state: TrainState = lane(self.state, n)
                with contextlib.closing(Checkpoints(run.last, keep=2)) as series:
                    series.save(int(state.step), state, dataclasses.asdict(progress))


def _mean(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The record that stands for those of all lanes."""
    # A lane's seconds are its share of the program's, so that each has the rate of all together.
    return jax.tree.map(lambda *each: float(np.mean(each)), *records) | {
        "epoch": records[0]["epoch"]
    }
