"""SIGTERM, by which clouds announce that a machine is about to go."""

from __future__ import annotations

import signal
from typing import Any


class Interrupted(Exception):  # noqa: N818, nothing went wrong
    """SIGTERM arrived, and the run was saved."""


class Sigterm:
    """Notes SIGTERM while inside instead of dying; the handler that was there returns afterwards.

    Attributes:
      arrived: whether it came.
    """

    arrived = False

    def __enter__(self) -> Sigterm:
        try:
            self._before: Any = signal.signal(signal.SIGTERM, self._note)
        except ValueError:  # not the main thread, which alone may handle signals
            self._before = None
        return self

    def _note(self, *_: object) -> None:
        self.arrived = True

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
