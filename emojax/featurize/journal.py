"""What is done already, a line each, so that a kill at any moment costs what was under way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from emojax.errors import DataError

_SYNC = 2.0
"""Seconds of work that a loss of power may cost; a kill costs none."""


class Journal:
    """An append-only file of JSON lines, the first of which names the recipe.

    Attributes:
      done: what was found in it, by key.

    Raises:
      DataError: it is of another recipe, or cannot be written.
    """

    def __init__(self, path: Path, recipe: Mapping[str, Any]):
        self.path = path
        self.done: dict[str, Any] = {}
        sound = self._read(recipe) if path.exists() else 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab")
            # A kill may have cut the last line short; what follows must not be glued to it.
            self._file.truncate(sound)
        except OSError as error:
            raise DataError(f"cannot be written: {error.strerror}", file=path) from error
        self._synced = time.monotonic()
        if not sound:
            self._append({"recipe": recipe})

    def _read(self, recipe: Mapping[str, Any]) -> int:
        """Fills `done`; returns how many bytes hold whole lines."""
        sound = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    content = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    content = None
                if not isinstance(content, dict):
                    break
                if not sound:
                    check_recipe(content.get("recipe"), recipe, self.path)
                else:
                    self.done[content["key"]] = content["value"]
                sound += len(line)
        return sound

    def add(self, key: str, value: Any) -> None:
        self.done[key] = value
        self._append({"key": key, "value": value})

    def _append(self, content: Mapping[str, Any]) -> None:
        try:
            self._file.write(json.dumps(content).encode() + b"\n")
            self._file.flush()
            if time.monotonic() - self._synced > _SYNC:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise DataError(
                f"cannot be written: {error.strerror}", file=self.path,
                fix="Make room; the same command then goes on",
            ) from error  # fmt: skip

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._file.close()


def check_recipe(found: Any, wanted: Mapping[str, Any], path: Path) -> None:
    """Raises `DataError` if what lies there was made in another way."""
    if found == wanted:
        return
    differ = []
    if isinstance(found, dict):
        differ = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    raise DataError(
        f"it was made with other settings or versions ({', '.join(differ) or 'unknown ones'})",
        file=path, fix="Use the same ones, or another folder",
    )  # fmt: skip
