"""The table of utterances that says who spoke when, in which recording, and what.

Columns `dialogue,speaker,start,end,text,label,media`, in any order, and if wanted `utterance` and
`split`. Times are seconds from the start of the recording; an empty start is its start, an empty
end its end. `media` is relative to the table's folder. An empty label is one that nobody knows.
`utterance` numbers those of a dialogue; without it they follow each other as in the table.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from emojax.data.readers.corpus import SPLITS, natural_key
from emojax.errors import DataError

COLUMNS = ("dialogue", "speaker", "start", "end", "text", "label", "media")
OPTIONAL = ("utterance", "split")
_SPLIT_NAMES = {**{split: split for split in SPLITS}, "dev": "validation", "val": "validation"}
_LONGEST_FILE = 1 << 28
_LONGEST_NAME = 200
_LATEST = 1e7
"""Seconds, a hundred days and more: whatever claims to be later is no time of a recording."""


@dataclasses.dataclass(frozen=True)
class Utterance:
    """One row.

    Attributes:
      dialogue, number: where it belongs; numbers increase within a dialogue and may have gaps.
      speaker, text: "" where nobody spoke a word.
      label: "" if unknown.
      start, end: seconds; `end` is None for the end of the recording.
      media: path relative to the manifest's folder.
      split: "train", "validation", "test", or "" if the manifest tells none.
    """

    dialogue: str
    number: int
    speaker: str
    text: str
    label: str
    start: float
    end: float | None
    media: str
    split: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """All rows, dialogue by dialogue in natural order.

    Attributes:
      path: of the table.
      utterances: in order.
    """

    path: Path
    utterances: tuple[Utterance, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Emotion names in natural order."""
        return _names(each.label for each in self.utterances)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Names in natural order."""
        return _names(each.speaker for each in self.utterances)

    def media(self) -> dict[str, Path]:
        """Every recording, by its name in the table."""
        folder = self.path.parent
        return {name: folder / name for name in sorted({u.media for u in self.utterances})}


def read_manifest(path: Path) -> Manifest:
    """Reads and checks a table.

    Raises:
      DataError: it is no such table, or a cell is not what its column wants; names line and column.
    """
    rows = _rows(path)
    header = [name.strip().lower() for name in next(rows, (0, []))[1]]
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(
            f"there is no column {', '.join(missing)}", file=path,
            fix=f"The first line should name the columns {','.join(COLUMNS)}",
        )  # fmt: skip
    if unknown := [name for name in header if name not in COLUMNS + OPTIONAL]:
        raise DataError(
            f"there is a column {unknown[0][:40]!r}", file=path,
            fix=f"Known are {', '.join(COLUMNS + OPTIONAL)}",
        )  # fmt: skip
    if len(set(header)) != len(header):
        raise DataError("two columns have the same name", file=path)
    found: dict[str, list[Utterance]] = {}
    for line, cells in rows:
        if len(cells) != len(header):
            raise DataError(
                f"line {line} has {len(cells)} cells, and the header {len(header)}", file=path,
                fix="Texts that hold commas go between double quotes",
            )  # fmt: skip
        row = _Row(path, line, dict(zip(header, cells, strict=True)))
        dialogue = row.name("dialogue")
        found.setdefault(dialogue, []).append(row.utterance(len(found.get(dialogue, ()))))
    if not found:
        raise DataError("there is no utterance in it", file=path)
    for dialogue, several in found.items():
        _check_dialogue(dialogue, several, path)
    if len({each.split == "" for several in found.values() for each in several}) == 2:
        raise DataError(
            "some rows have a split and others none", file=path, field="split",
            fix="Give every dialogue one, or none of them",
        )  # fmt: skip
    ordered = (
        each for dialogue in sorted(found, key=natural_key)
        for each in sorted(found[dialogue], key=lambda each: each.number)
    )  # fmt: skip
    manifest = Manifest(path, tuple(ordered))
    if not manifest.labels:
        raise DataError("no utterance has a label", file=path, field="label")
    return manifest


def _rows(path: Path):
    """(line from 1, cells) of every row that is not blank."""
    try:
        with path.open("rb") as stream:
            data = stream.read(_LONGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    if len(data) > _LONGEST_FILE:
        raise DataError(f"it is longer than {_LONGEST_FILE >> 20} MiB", file=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"line {line} is not UTF-8", file=path, fix="Save it as UTF-8") from error
    if "\0" in text:
        raise DataError("not CSV text: it holds zero bytes", file=path)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"line {reader.line_num} is not CSV: {error}", file=path) from error


def _check_dialogue(dialogue: str, several: list[Utterance], path: Path) -> None:
    numbers = [each.number for each in several]
    if len(set(numbers)) != len(numbers):
        raise DataError(
            "two utterances have the same number", file=path, conversation=dialogue,
            field="utterance",
        )  # fmt: skip
    if len({each.split for each in several}) > 1:
        raise DataError(
            "its utterances are in different splits", file=path, conversation=dialogue,
            field="split", fix="A dialogue is trained on or scored, not both",
        )  # fmt: skip


def _names(found) -> tuple[str, ...]:
    return tuple(sorted({name for name in found if name}, key=natural_key))


@dataclasses.dataclass(frozen=True)
class _Row:
    path: Path
    line: int
    cells: Mapping[str, str]

    def bad(self, column: str, problem: str, fix: str | None = None) -> DataError:
        return DataError(f"line {self.line}: {problem}", file=self.path, field=column, fix=fix)

    def utterance(self, place: int) -> Utterance:
        number = self.cells.get("utterance", "").strip()
        if number and not (number.isascii() and number.isdigit() and len(number) < 10):
            raise self.bad("utterance", f"{number[:40]!r} is not a whole number")
        split = self.cells.get("split", "").strip().lower()
        if split and split not in _SPLIT_NAMES:
            raise self.bad(
                "split", f"{split[:40]!r} is no split", f"Known are {', '.join(_SPLIT_NAMES)}"
            )
        return Utterance(
            dialogue=self.name("dialogue"), number=int(number) if number else place,
            speaker=self.name("speaker"), text=self.cells["text"].strip(),
            label=self.name("label", may_be_empty=True), start=self.time("start") or 0.0,
            end=self.time("end"), media=self.media(), split=_SPLIT_NAMES[split] if split else "",
        )  # fmt: skip

    def name(self, column: str, *, may_be_empty: bool = False) -> str:
        name = self.cells[column].strip()
        if len(name) > _LONGEST_NAME or not (name or may_be_empty):
            raise self.bad(column, f"{name[:40]!r} is no name", f"1 to {_LONGEST_NAME} characters")
        return name

    def time(self, column: str) -> float | None:
        cell = self.cells[column].strip()
        if not cell:
            return None
        try:
            seconds = float(cell)
        except ValueError:
            raise self.bad(column, f"{cell[:40]!r} is not a number", "Seconds, as 12.5") from None
        if not math.isfinite(seconds) or abs(seconds) > _LATEST:
            raise self.bad(
                column, f"{cell[:40]} is no time of a recording",
                f"Seconds from the recording's start, below {_LATEST:.0f}",
            )  # fmt: skip
        return seconds

    def media(self) -> str:
        name = self.cells["media"].strip()
        parts = PurePosixPath(name.replace("\\", "/")).parts
        outside = name[:1] in "/\\~" or ":" in parts[0] if parts else True
        if outside or ".." in parts or not name.isprintable() or len(name) > 1000:
            raise self.bad(
                "media", f"{name[:80]!r} is no file below the manifest's folder",
                "Give a path relative to it, without '..'; move the manifest up if need be",
            )  # fmt: skip
        return name
