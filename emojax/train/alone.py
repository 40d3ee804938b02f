"""One process at a time in a run's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from emojax.errors import ConfigError


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else trains in this folder meanwhile; where a file system has no locks, who knows.

    Raises:
      ConfigError: somebody does.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            file = stack.enter_context((folder / ".lock").open("a"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{folder} is being trained by another process. Wait for it or stop it first"
                ) from None
        yield
