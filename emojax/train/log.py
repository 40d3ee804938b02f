"""Where a run's numbers go: JSON lines, TensorBoard, and a progress bar for whoever watches."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from emojax.errors import CheckpointError


class MetricLog:
    """Appends to `metrics.jsonl` and to TensorBoard event files.

    After `rewind(size, step)` the log is as it was when those were saved, so a resumed run's log
    reads like an undisturbed one's.

    Raises:
      CheckpointError: from every method, if the folder cannot be written or is full.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._events: Any = None
        self._purge = 0
        with self._explained():
            self._file = (folder / "metrics.jsonl").open("ab")

    def rewind(self, size: int, step: int) -> None:
        """Forget what was written after the first `size` bytes and `step` steps."""
        with self._explained():
            self._file.seek(min(size, self._file.seek(0, os.SEEK_END)))
            self._file.truncate()
        # The record of an epoch bears the number of steps taken: at `step` itself it is kept.
        self._purge = step + 1

    def write(self, step: int, values: dict[str, Any]) -> None:
        """One line, and a scalar for every number in it (nested names joined by a slash)."""
        with self._explained():
            self._file.write((json.dumps({"step": step, **values}) + "\n").encode())
            self._write_scalars(step, values)

    def flush(self) -> int:
        """Hand everything to the system; returns the size of the JSON lines in bytes."""
        with self._explained():
            self._file.flush()
            if self._events is not None:
                self._events.flush()
            return self._file.tell()

    def close(self) -> None:
        with self._explained():
            try:
                self._file.close()
            finally:
                if self._events is not None:
                    self._events.close()

    def _write_scalars(self, step: int, values: dict[str, Any]) -> None:
        # Imported late: it takes half a second that `--help` need not wait. The event writer is
        # used without tensorboardX's thread and queue: a full disk kills the one and then blocks
        # whoever writes to the other.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        now = time.time()
        if self._events is None:
            folder = self._folder / "tensorboard"
            folder.mkdir(exist_ok=True)
            # A number, so that a restart within a second does not overwrite what was there.
            number = len(list(folder.iterdir()))
            self._events = EventsWriter(str(folder / "events"), f".{number}")
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._events.write_event(
                event_pb2.Event(wall_time=now, step=self._purge, session_log=start)
            )
        for name, value in _flat(values):
            self._events.write_event(
                event_pb2.Event(wall_time=now, step=step, summary=scalar(name, value))
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self._folder}: the metrics cannot be written: {error}. Complete checkpoints "
                "stay. Make room or allow writing, then resume"
            ) from error


class NoLog(MetricLog):
    """For processes that leave the log to the first one."""

    def __init__(self) -> None:
        pass

    def rewind(self, size: int, step: int) -> None:
        pass

    def write(self, step: int, values: dict[str, Any]) -> None:
        pass

    def flush(self) -> int:
        return 0

    def close(self) -> None:
        pass


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((prefix + name, value))
    return found


class Watch:
    """A progress bar on a terminal, a line per epoch elsewhere, nothing if quiet.

    Args:
      unit: what is counted; an epoch's record has them as `UNIT_per_second`.
    """

    def __init__(
        self, console: Console, *, epochs: int, steps: int, done: int, quiet: bool,
        unit: str = "conversations",
    ):  # fmt: skip
        self._console, self._epochs, self._quiet, self._unit = console, epochs, quiet, unit
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal and not quiet:
            columns = (
                TextColumn("epoch {task.fields[epoch]}"), BarColumn(),
                TextColumn("loss {task.fields[loss]}  validation {task.fields[score]}  "
                           f"{{task.fields[rate]}} {unit}/s"),
                TimeRemainingColumn(),
            )  # fmt: skip
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(
                "", total=steps, completed=done, epoch=f"-/{epochs}", loss="-", score="-", rate="-"
            )

    def step(self, epoch: int, loss: float, rate: float) -> None:
        if self._bar:
            self._bar.update(
                self._task, advance=1, epoch=f"{epoch + 1}/{self._epochs}", loss=f"{loss:.4f}",
                rate=f"{rate:,.0f}",
            )  # fmt: skip

    def epoch(self, record: dict[str, Any], metric: str, best: bool) -> None:
        """One finished epoch."""
        score = record["validation"][metric]
        if self._bar:
            self._bar.update(self._task, score=f"{metric} {score:.4f}")
        if not self._quiet:
            (self._bar.console if self._bar else self._console).print(
                f"epoch {record['epoch'] + 1:3d}/{self._epochs}  loss {record['train_loss']:.4f}  "
                f"validation {metric} {score:.4f}{' *' if best else '  '}  "
                f"{record[f'{self._unit}_per_second']:,.0f} {self._unit}/s",
                highlight=False, soft_wrap=True,
            )  # fmt: skip

    def close(self) -> None:
        if self._bar:
            self._bar.stop()
