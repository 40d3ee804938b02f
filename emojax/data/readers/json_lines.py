"""JSON lines: conversations from anywhere, one a line, for a model that knows its labels already.

    {"id": "a", "utterances": [{"speaker": "Ann", "text": [0.1, 2], "audio": null,
     "transcript": "Well.", "label": "sad"}]}

A modality that is null or left out is missing; so may be transcripts and labels. A model whose
text features are made from transcripts takes those and no `text`. Fields of any
other name are refused: a misspelt modality would otherwise pass for a missing one.
"""

from __future__ import annotations

import dataclasses
import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.data.readers.corpus import Corpus
from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature

TITLE = "JSON lines"
LONGEST_LINE = 1 << 28
"""Bytes; a conversation of an hour takes about a tenth of it."""
LONGEST_ID = 200

_CONVERSATION = ("id", "utterances")
_UTTERANCE = ("speaker", *MODALITIES, "transcript", "label")


def read_json_lines(
    path: Path, signature: Signature, *, any_speaker: bool = True, encodes_text: bool = False,
    skip_bad: bool = False,
) -> Corpus:  # fmt: skip
    """Reads every conversation of a file in the numbering of a model.

    Args:
      path: UTF-8 text; blank lines do not count.
      signature: of the model: its labels, widths and speakers.
      any_speaker: whether speakers may have names that the model has never met. Then they are
        numbered as they appear in the file, which is all that telling same from other needs.
      encodes_text: text features will be made from the transcripts, which then count as text.
      skip_bad: set a bad line aside in `Corpus.skipped` instead of raising its error.

    Returns:
      A corpus whose one split is called "test" and whose speakers are those of the file if
      `any_speaker`, else those of the signature.

    Raises:
      DataError: the file cannot be read or holds no conversation; unless skipped, a line that is
        no such object, an id that occurs twice, or a field that does not fit.
    """
    speakers = {} if any_speaker else {name: i for i, name in enumerate(signature.speakers)}
    seen: dict[str, int] = {}
    kept: list[Conversation] = []
    skipped: list[DataError] = []
    for number, line in _lines(path):
        name = None
        try:
            content = _decode(line)
            name = _name(content)
            if name in seen:
                raise _Bad("id", f"the id is that of line {seen[name]}", "Give every line its own")
            seen[name] = number
            kept.append(
                _conversation(name, content, signature, speakers, any_speaker, encodes_text)
            )
        except _Bad as bad:
            error = DataError(
                f"line {number}: {bad.problem}", file=path, conversation=name, field=bad.field,
                fix=bad.fix,
            )  # fmt: skip
            if not skip_bad:
                raise error from None
            skipped.append(error)
    if not kept:
        raise none_left(skipped, path)
    names = tuple(speakers) if any_speaker else signature.speakers
    return Corpus(
        signature=dataclasses.replace(signature, name="json_lines", speakers=names),
        layout=TITLE,
        splits={"test": tuple(kept)},
        skipped=tuple(skipped),
        source=path,
    )


def none_left(skipped: Sequence[DataError], file: Path) -> DataError:
    """The error where no conversation is left to read: the first reason why."""
    if not skipped:
        return DataError("there is no conversation in it", file=file)
    first = skipped[0]
    return DataError(
        f"{first.problem}, and no other conversation is left", file=file,
        conversation=first.conversation, field=first.field, fix=first.fix,
    )  # fmt: skip


class _Bad(Exception):  # noqa: N818, it becomes the DataError that knows file and line
    def __init__(self, field: str | None, problem: str, fix: str | None = None):
        self.field, self.problem, self.fix = field, problem, fix


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, bytes) of every line that is not blank."""
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    raise DataError(
                        f"line {number} is longer than {LONGEST_LINE >> 20} MiB", file=path,
                        fix="Write one conversation a line",
                    )  # fmt: skip
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _decode(line: bytes) -> dict[str, Any]:
    try:
        content = json.loads(line.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError as error:
        raise _Bad(None, f"not UTF-8 (byte {error.start + 1})", "Save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} (column {error.colno})"
        raise _Bad(None, problem, "Write one whole conversation a line") from None
    except RecursionError:
        raise _Bad(None, "nested too deeply to be a conversation") from None
    except ValueError:  # Python refuses to convert more than some thousand digits
        raise _Bad(None, "a whole number of absurdly many digits") from None
    return _object(content, None, "conversation", _CONVERSATION)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in content if names.count(name) > 1)
        raise _Bad(None, f"the field {reprlib.repr(twice)} stands twice in one object")
    return content


def _object(value: Any, field: str | None, what: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(field, f"{_kind(value)} where an object, one {what}, is expected")
    for name in value:
        if name not in known:
            raise _Bad(
                field, f"there is no field {reprlib.repr(name)}", f"Known are {', '.join(known)}"
            )
    return value


def _name(content: Mapping[str, Any]) -> str:
    name = content.get("id")
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_ID:
        raise _Bad(
            "id", f"{reprlib.repr(name)} is not an id", f"A text of 1 to {LONGEST_ID} characters"
        )
    return name


def _conversation(
    name: str, content: Mapping[str, Any], signature: Signature, speakers: dict[str, int],
    any_speaker: bool, encodes_text: bool,
) -> Conversation:  # fmt: skip
    """The conversation; its speakers' names are added to `speakers` if any may speak."""
    utterances = content.get("utterances")
    if not isinstance(utterances, list) or not utterances:
        found = "an empty list" if utterances == [] else _kind(utterances)
        raise _Bad("utterances", f"{found} where a list of utterances is expected")
    rows = [
        _object(value, f"utterances[{i}]", "utterance", _UTTERANCE)
        for i, value in enumerate(utterances)
    ]
    transcript = tuple(_words(row, f"utterances[{i}].transcript") for i, row in enumerate(rows))
    present = np.array([[row.get(m) is not None for m in MODALITIES] for row in rows])
    if encodes_text:
        text = present[:, MODALITIES.index("text")]
        if text.any():
            raise _Bad(
                f"utterances[{text.argmax()}].text", "the model makes text features itself",
                "Give the transcript and leave text out",
            )  # fmt: skip
        text[:] = [bool(words.strip()) for words in transcript]
        if not present.any():
            raise _Bad("utterances", "no utterance has a transcript or features of any modality")
    if not present.any():
        raise _Bad(
            "utterances", "no utterance has features of any modality",
            "Transcripts alone are not read: give text, audio or visual features",
        )  # fmt: skip
    who = [_speaker(row, f"utterances[{i}].speaker") for i, row in enumerate(rows)]
    if not any_speaker:
        for i, one in enumerate(who):
            _among(one, speakers, f"utterances[{i}].speaker")
    labels = {label: i for i, label in enumerate(signature.labels)}
    return Conversation(
        id=name,
        **{
            modality: _features(rows, modality, width)
            for modality, width in zip(MODALITIES, signature.widths, strict=True)
        },
        present=present,
        label=np.array(
            [
                UNLABELLED
                if row.get("label") is None
                else _among(row["label"], labels, f"utterances[{i}].label")
                for i, row in enumerate(rows)
            ],
            np.int32,
        ),
        transcript=transcript,
        # Last, so that a conversation set aside leaves no speaker behind.
        speaker=np.array([speakers.setdefault(one, len(speakers)) for one in who], np.int32),
    )


def _features(rows: list[dict[str, Any]], modality: str, width: int) -> np.ndarray:
    """f32[L, D_m], zeros where the modality is missing."""
    features = np.zeros((len(rows), width), np.float32)
    for i, row in enumerate(rows):
        values, field = row.get(modality), f"utterances[{i}].{modality}"
        if values is None:
            continue
        if not isinstance(values, list) or not set(map(type, values)) <= {int, float}:
            other = _kind(values) if not isinstance(values, list) else "a list of other things"
            raise _Bad(field, f"{other} where a list of numbers is expected")
        if len(values) != width:
            raise _Bad(field, f"{len(values)} numbers", f"The model takes {width}")
        try:
            with np.errstate(over="ignore"):
                features[i] = np.array(values, np.float64)
            bad = ~np.isfinite(features[i])
        except OverflowError:  # a whole number beyond even 64-bit floats
            bad = np.array([not abs(value) < 1e39 for value in values])
        if bad.any():
            value = reprlib.repr(values[int(bad.argmax())])
            raise _Bad(field, f"{value} is not a finite 32-bit number", "Features must be finite")
    return features


def _speaker(row: Mapping[str, Any], field: str) -> str:
    speaker = row.get("speaker")
    if not isinstance(speaker, str) or not speaker:
        raise _Bad(field, f"{reprlib.repr(speaker)} is not a speaker's name", "Give it a text")
    return speaker


def _words(row: Mapping[str, Any], field: str) -> str:
    words = row.get("transcript")
    if not isinstance(words, str | None):
        raise _Bad(field, f"{_kind(words)} where a text or null is expected")
    return words or ""


def _among(value: Any, known: Mapping[str, int], field: str) -> int:
    if not isinstance(value, str) or value not in known:
        raise _Bad(
            field, f"the model does not know {reprlib.repr(value)}", f"Known are {', '.join(known)}"
        )
    return known[value]


def _kind(value: Any) -> str:
    """The JSON type of a value, in words."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return names.get(type(value), "a list" if isinstance(value, list) else "an object")
