"""Files that are either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from emojax.errors import DataError


def write_atomically(path: Path, content: bytes | str) -> Path:
    """Writes a file beside its place and moves it there; makes the folders it needs.

    Text becomes UTF-8; a lone surrogate, which UTF-8 cannot hold, becomes its `\\udXXX` escape,
    which inside a JSON string stands for the same character.

    Raises:
      DataError: the file cannot be written; what stood at `path` before is untouched.
    """
    if isinstance(content, str):
        content = content.encode("utf-8", "backslashreplace")
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Temporary files are private; a report is as readable as any file made here.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            file=path,
            fix="Choose a folder that can be written to and has room",
        ) from error
    return path
