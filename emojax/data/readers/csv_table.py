"""CSV tables of strangers, and the mis-encoded punctuation in them."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

from emojax.errors import DataError

_PUNCTUATION = "‘’“”–—…"


def _as_windows(byte: int) -> str:
    """What Windows-1252 means by a byte; its five holes stay control characters."""
    try:
        return bytes([byte]).decode("cp1252")
    except UnicodeDecodeError:
        return chr(byte)


def _decode_as_windows(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(map(_as_windows, bad)), error.end


codecs.register_error("emojax_windows", _decode_as_windows)

_CONTROLS = {code: _as_windows(code) for code in range(0x80, 0xA0)}
_TWICE_ENCODED = {
    "".join(map(_as_windows, character.encode())): character for character in _PUNCTUATION
}


def repair(text: str) -> str:
    """Undoes the usual damage to quotes, dashes and ellipses.

    Two kinds occur: Windows-1252 bytes taken for control characters, and UTF-8 that was taken
    for Windows-1252 and encoded once more.
    """
    text = text.translate(_CONTROLS)
    for damaged, character in _TWICE_ENCODED.items():
        text = text.replace(damaged, character)
    return text


def read_rows(path: Path) -> list[list[str]]:
    """The rows of a CSV file, UTF-8 with stray Windows-1252 bytes; blank lines are left out.

    Raises:
      DataError: the file is missing, empty, cannot be read or is not CSV text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(
            "the file is missing", file=path, fix="The folder is not complete: fetch it again"
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    text = repair(data.decode("utf-8-sig", errors="emojax_windows"))
    if "\0" in text:
        raise DataError("not CSV text: it holds zero bytes", file=path)
    try:
        table = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"not CSV text, or truncated: {error}", file=path) from error
    if not table:
        raise DataError("the file is empty", file=path, fix="Fetch or copy it again")
    return table
