"""What the pickles of IEMOCAP and MELD have in common: a tuple of dicts keyed by dialogue.

Each of the first items is a dict from dialogue id to a list or array over its L utterances;
two collections of ids, train and test, follow. The layouts differ in where things stand.
"""

from __future__ import annotations

import dataclasses
import numbers
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.data.readers.corpus import Corpus, assemble, natural_key
from emojax.errors import DataError
from emojax.types import MODALITIES, Conversation, Signature

SPEAKER, LABEL = 1, 2


@dataclasses.dataclass(frozen=True)
class TupleLayout:
    """Where the fields of one pickle layout stand.

    Attributes:
      title: the layout in words.
      length: number of items of the tuple.
      key: type of the dialogue ids.
      features: places of text, audio and visual.
      sentences: place of the utterances' words; the train and test ids follow it.
    """

    title: str
    length: int
    key: type
    features: tuple[int, int, int]
    sentences: int

    def matches(self, content: Any) -> bool:
        """Whether the unpickled content has this layout, judged by lengths and types alone."""
        if not isinstance(content, list | tuple) or len(content) != self.length:
            return False
        fields = content[: self.sentences + 1]
        if not all(isinstance(field, dict) and field for field in fields):
            return False
        return all(isinstance(key, self.key) for field in fields for key in field)


def read_feature_tuple(
    content: Sequence[Any],
    layout: TupleLayout,
    *,
    name: str,
    labels: tuple[str, ...],
    speakers: tuple[str, ...],
    speaker_index: Callable[[Any], np.ndarray],
    carve: Callable[[dict[str, list]], dict[str, list]],
    path: Path,
    skip_bad: bool,
) -> Corpus:
    """Reads unpickled content that matches `layout`.

    Args:
      speaker_index: a dialogue's speaker entry to i32[L]; raises ValueError with the reason.
      carve: the train and test ids, sorted, to the ids of all published splits.

    Raises:
      DataError: see `assemble`.
    """
    ids = {
        "train": _ids(content[layout.sentences + 1], layout, "train ids", path),
        "test": _ids(content[layout.sentences + 2], layout, "test ids", path),
    }
    widths = tuple(
        _usual_width(content[place], field, path)
        for field, place in zip(MODALITIES, layout.features, strict=True)
    )
    signature = Signature(name, labels, speakers, widths)  # type: ignore[arg-type]
    # Entries may share memory through the pickle's memo, so a small file could claim terabytes.
    budget = _Budget(2 * path.stat().st_size)

    def build(_split: str, key: Any) -> Conversation:
        def entry(place: int, field: str, convert: Callable[[Any], Any]) -> Any:
            try:
                if key not in content[place]:
                    raise ValueError("there is no entry for this dialogue")
                return convert(content[place][key])
            except ValueError as error:
                raise DataError(
                    str(error), file=path, conversation=str(key), field=field
                ) from error

        text, audio, visual = (
            entry(place, field, lambda value: _features(value, budget))
            for field, place in zip(MODALITIES, layout.features, strict=True)
        )
        return Conversation(
            str(key),
            text=text,
            audio=audio,
            visual=visual,
            present=np.ones((len(text), len(MODALITIES)), bool),
            speaker=entry(SPEAKER, "speaker", speaker_index),
            label=entry(LABEL, "label", _labels),
            transcript=entry(
                layout.sentences, "transcript", lambda value: _sentences(value, budget)
            ),
        )

    return assemble(
        carve(ids),
        build,
        signature=signature,
        layout=layout.title,
        source=path,
        skip_bad=skip_bad,
    )


def rows(value: Any) -> list[Any]:
    """The entries of a dialogue, one an utterance; ValueError if it is not a sequence."""
    if isinstance(value, np.ndarray) and value.ndim > 0:
        return list(value)
    if isinstance(value, list | tuple):
        return list(value)
    raise ValueError(f"{type(value).__name__} where a list or array over utterances is expected")


class _Budget:
    """Refuses to unfold more numbers and letters than a file of its size can honestly hold."""

    def __init__(self, limit: int):
        self.left = limit

    def spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise ValueError("the file claims more content than its size can hold")


def _features(value: Any, budget: _Budget) -> np.ndarray:
    """f32[L, D_m]; values too large for float32 become infinite, for the check to find."""
    entries = []
    for row in rows(value):
        entries.append(vector(row))
        budget.spend(len(entries[-1]))
    widths = {len(row) for row in entries}
    if len(widths) > 1:
        raise ValueError(f"utterances differ in width: {sorted(widths)[:4]}")
    if not entries:
        return np.zeros((0, 0), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.stack([row.astype(np.float32) for row in entries])


def vector(row: Any) -> np.ndarray:
    """The real numbers of one utterance's entry; ValueError if it is anything else.

    Numpy is never let loose on nested lists: shared through the memo they grow without bound.
    """
    if isinstance(row, np.ndarray):
        if row.dtype.hasobject:
            row = row.tolist()
        elif row.ndim == 1 and row.dtype.kind in "fiu":
            return np.asarray(row)
    if isinstance(row, list | tuple) and all(isinstance(number, numbers.Real) for number in row):
        try:
            return np.array(row, np.float64)
        except OverflowError:
            raise ValueError("a number beyond the range of floats") from None
    raise ValueError("an utterance's features are not a vector of real numbers")


def _labels(value: Any) -> np.ndarray:
    labels = []
    for entry in rows(value):
        if isinstance(entry, np.ndarray | np.generic) and entry.size == 1:
            entry = entry.item()
        if not isinstance(entry, int | float) or not abs(entry) < 2**31 or int(entry) != entry:
            raise ValueError(f"{reprlib.repr(entry)} is not a class index")
        labels.append(int(entry))
    return np.array(labels, np.int32)


def _sentences(value: Any, budget: _Budget) -> tuple[str, ...]:
    sentences = rows(value)
    for sentence in sentences:
        if not isinstance(sentence, str):
            raise ValueError(f"{type(sentence).__name__} where an utterance's words are expected")
        budget.spend(len(sentence))
    return tuple(str(sentence) for sentence in sentences)


def _ids(value: Any, layout: TupleLayout, field: str, path: Path) -> list[Any]:
    """Dialogue ids in natural order: a set has no order of its own to keep."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(key, layout.key) and _reasonable(key) for key in value
    ):
        raise DataError(
            f"not a collection of dialogue ids of type {layout.key.__name__}",
            file=path,
            field=field,
        )
    return sorted(value, key=natural_key)


def _reasonable(key: Any) -> bool:
    """Whether an id can be printed and sorted: a number's digits are limited in Python."""
    return abs(key) < 2**63 if isinstance(key, int) else len(key) <= 200


def _usual_width(field: Mapping[Any, Any], name: str, path: Path) -> int:
    """The width of most dialogues, so that one bad dialogue is not taken for the rule."""
    widths: Counter[int] = Counter()
    for value in field.values():
        try:
            first = rows(value)[0]
        except (ValueError, IndexError):
            continue
        if isinstance(first, list | tuple) or (isinstance(first, np.ndarray) and first.ndim == 1):
            widths[len(first)] += 1
    if not widths or widths.most_common(1)[0][0] == 0:
        raise DataError("no dialogue has features", file=path, field=name)
    return widths.most_common(1)[0][0]
