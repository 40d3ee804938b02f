"""What `emojax featurize` writes: a folder with one file of utterances, their features in it.

`utterances.jsonl` is UTF-8 text. Its first line is the header:

    {"format": "emojax utterances 1", "labels": [...], "speakers": [...], "widths": [T, A, V], ...}

and each line that follows an utterance, dialogue by dialogue:

    {"dialogue": "d1", "number": 0, "speaker": "Ann", "transcript": "Well.", "label": "sad",
     "split": "train", "text": "...", "audio": null, "visual": "..."}

with features as base64 of little-endian f32, null where there are none; where the header has
"frames": [1, K, K], those of K frames of an utterance one after the other. An utterance without any
is left out. Without splits, a fifth of the dialogues, chosen by a hash of their names, is the test.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import itertools
import json
import reprlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emojax.data.readers.corpus import SPLITS, Corpus, assemble
from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature

FORMAT = "emojax utterances 1"
FILE = "utterances.jsonl"
FILES = (FILE,)
TITLE = "emojax featurize folder"
TEST_SHARE = 0.2
FEWEST_DIALOGUES = 3
"""That make three splits; fewer can be predicted and not trained on."""
_WIDEST = 1 << 20
_LONGEST_LINE = 1 << 26
_FIX = "Make it again with `emojax featurize`"


def matches(folder: Path) -> bool:
    """Whether the folder holds such a file."""
    return (folder / FILE).is_file()


def read(folder: Path, *, skip_bad: bool = False) -> Corpus:
    """The corpus of a folder.

    Raises:
      DataError: see `assemble`; also a header or a line that is not as described above.
    """
    path = folder / FILE
    lines = _lines(path)
    signature = _signature(next(lines, (1, {}))[1], path)
    dialogues: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for number, line in lines:
        if not isinstance(line.get("dialogue"), str):
            raise _bad(path, number, "dialogue", "there is no name")
        if any(line.get(modality) is not None for modality in MODALITIES):
            dialogues.setdefault(line["dialogue"], []).append((number, line))
    if not dialogues:
        raise DataError("no utterance has any features", file=path)

    def build(split: str, name: str) -> Conversation:
        return _conversation(name, dialogues[name], signature, path)

    return assemble(
        _splits(dialogues, path), build, signature=signature, layout=TITLE, source=folder,
        file=path, skip_bad=skip_bad,
    )  # fmt: skip


def header(path: Path) -> Mapping[str, Any]:
    """The first line; raises `DataError` as `read` does."""
    with contextlib.closing(_lines(path)) as lines:
        first = next(lines, (1, {}))[1]
    _signature(first, path)
    return first


def _lines(path: Path) -> Generator[tuple[int, Mapping[str, Any]], None, None]:
    try:
        with path.open("rb") as stream:
            for number in itertools.count(1):
                line = stream.readline(_LONGEST_LINE + 1)
                if not line:
                    return
                if len(line) > _LONGEST_LINE:
                    raise _bad(path, number, None, f"longer than {_LONGEST_LINE >> 20} MiB")
                try:
                    content = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError) as error:
                    raise _bad(path, number, None, "not JSON in UTF-8") from error
                if not isinstance(content, dict):
                    raise _bad(path, number, None, "no object")
                yield number, content
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _signature(first: Mapping[str, Any], path: Path) -> Signature:
    if first.get("format") != FORMAT:
        raise _bad(path, 1, "format", f"{reprlib.repr(first.get('format'))} is not {FORMAT!r}")
    names = {}
    for field in ("labels", "speakers"):
        found = first.get(field)
        if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
            raise _bad(path, 1, field, "not a list of names")
        if len(set(found)) != len(found):
            raise _bad(path, 1, field, "a name stands there twice")
        names[field] = tuple(found)
    widths = first.get("widths")
    if not isinstance(widths, list) or len(widths) != len(MODALITIES):
        raise _bad(path, 1, "widths", f"not {len(MODALITIES)} numbers")
    if not all(type(width) is int and 0 < width <= _WIDEST for width in widths):
        raise _bad(path, 1, "widths", f"{reprlib.repr(widths)} are no widths")
    frames = first.get("frames", [1] * len(MODALITIES))
    if not isinstance(frames, list) or len(frames) != len(MODALITIES):
        raise _bad(path, 1, "frames", f"not {len(MODALITIES)} numbers")
    if not all(
        type(count) is int and count > 0 and width % count == 0
        for count, width in zip(frames, widths, strict=True)
    ):
        raise _bad(path, 1, "frames", f"{reprlib.repr(frames)} do not divide {widths}")
    return Signature(
        "featurized", names["labels"], names["speakers"], tuple(widths), tuple(frames)
    )  # fmt: skip


def _splits(
    dialogues: Mapping[str, list[tuple[int, Mapping[str, Any]]]], path: Path
) -> dict[str, list[str]]:
    from emojax.data.splits import hold_out

    found: dict[str, list[str]] = {}
    for name, lines in dialogues.items():
        splits = {
            line.get("split") or "" for _, line in lines if isinstance(line.get("split"), str)
        }
        if len(splits) > 1 or not splits <= {"", *SPLITS}:
            raise _bad(path, lines[0][0], "split", f"dialogue {name!r} has the splits {splits}")
        found.setdefault(next(iter(splits), ""), []).append(name)
    if "" not in found:
        return found
    if len(found) > 1:
        raise DataError("some dialogues have a split and others none", file=path, field="split")
    if len(dialogues) < FEWEST_DIALOGUES:
        return {"test": list(dialogues)}
    train, test = hold_out(list(dialogues), TEST_SHARE)
    return {"train": list(train), "test": list(test)}


def _conversation(
    name: str, lines: list[tuple[int, Mapping[str, Any]]], signature: Signature, path: Path
) -> Conversation:
    speakers = {who: i for i, who in enumerate(signature.speakers)}
    labels = {label: i for i, label in enumerate(signature.labels)} | {"": UNLABELLED}
    features: dict[str, np.ndarray] = {}
    for modality, width in zip(MODALITIES, signature.widths, strict=True):
        features[modality] = np.stack(
            [unpack(line.get(modality), width, path, number, modality) for number, line in lines]
        )

    def among(field: str, known: Mapping[str, int]) -> np.ndarray:
        for number, line in lines:
            if not isinstance(line.get(field), str) or line[field] not in known:
                raise _bad(
                    path, number, field, f"{reprlib.repr(line.get(field))} is not in the header"
                )
        return np.array([known[line[field]] for _, line in lines], np.int32)

    return Conversation(
        name,
        **features,
        present=np.array([[line.get(m) is not None for m in MODALITIES] for _, line in lines]),
        speaker=among("speaker", speakers),
        label=among("label", labels),
        transcript=tuple(str(line.get("transcript") or "") for _, line in lines),
    )


def unpack(value: Any, width: int, path: Path, line: int, field: str) -> np.ndarray:
    """f32[width] of base64 text, zeros of None.

    Raises:
      DataError: no such text, or of another width.
    """
    if value is None:
        return np.zeros(width, np.float32)
    try:
        data = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise _bad(path, line, field, "not base64") from error
    if len(data) != 4 * width:
        raise _bad(path, line, field, f"{len(data)} bytes are not {width} numbers")
    return np.frombuffer(data, "<f4").astype(np.float32)


def _bad(path: Path, line: int, field: str | None, problem: str) -> DataError:
    return DataError(f"line {line}: {problem}", file=path, field=field, fix=_FIX)
