"""A trace of a few steps, for XProf (TensorBoard's profile plugin) or Perfetto."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Hashable, Iterator
from pathlib import Path

import jax

from emojax.errors import CheckpointError

SETTLED = 5
"""Steps without a new shape, which would be compiled, before the trace begins."""
TRACED = 5
"""Steps that are traced."""


class Profiler:
    """Traces `TRACED` steps into a folder, once the loop has settled.

    Args:
      folder: None traces nothing.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder
        self._seen: set[Hashable] = set()
        self._settled = self._traced = 0
        self._running = False

    @contextlib.contextmanager
    def step(self, number: int, shape: Hashable) -> Iterator[None]:
        """Around one step of the loop, whose batch has that shape.

        Raises:
          CheckpointError: the trace cannot be written.
        """
        if self._folder is None:
            yield
            return
        if not self._running and self._settled >= SETTLED and shape in self._seen:
            self._begin(self._folder)
        self._settled = self._settled + 1 if shape in self._seen else 0
        self._seen.add(shape)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield
        self._traced += self._running

    def rest(self, state: object) -> None:
        """After each step: ends the trace when it holds enough, its last step included."""
        if self._running and self._traced >= TRACED:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Write what was traced."""
        if self._running:
            self._running, self._folder = False, None
            jax.profiler.stop_trace()

    def end(self) -> None:
        """After the last step."""
        self.close()
        if self._folder is not None:
            warnings.warn(
                f"training ended before {SETTLED} steps without a new shape: nothing was traced",
                stacklevel=2,
            )

    def _begin(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: no trace can be written here: {error}") from error
        jax.profiler.start_trace(folder)
        self._running = True
