"""What goes wrong, said so that it can be mended: each error names the place and the fix."""

from __future__ import annotations


class EmojaxError(Exception):
    """Anything emojax refuses; the command line prints its text alone and exits with 1."""


class ConfigError(EmojaxError):
    """A configuration that cannot be run; raised before anything is compiled."""


class CheckpointError(EmojaxError):
    """A checkpoint that cannot be written, found or restored."""


class ProcessError(EmojaxError):
    """Processes that train together and did not start, agree or stay together."""


class NonFiniteError(EmojaxError):
    """Training met a loss or gradient that is not finite; the last good state was kept."""


class DataError(EmojaxError):
    """A corpus, file or conversation that cannot be used as it is.

    Attributes:
      file: path of the file at fault.
      conversation: id of the conversation at fault, or None when it is the file.
      field: the field at fault (`text`, `label`, ...), or None.
      problem: what was found.
      fix: what would be right.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: object = None,
        conversation: str | None = None,
        field: str | None = None,
        fix: str | None = None,
    ):
        self.problem = problem
        self.file = None if file is None else str(file)
        self.conversation = conversation
        self.field = field
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        place = [
            self.file,
            self.conversation and f"conversation {self.conversation!r}",
            self.field and f"field {self.field!r}",
        ]
        where = ", ".join(part for part in place if part)
        text = f"{where}: {self.problem}" if where else self.problem
        return f"{text}. {self.fix}" if self.fix else text
