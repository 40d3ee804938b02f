"""MELD's published CSV tables: words, speakers, emotions; no audio or video.

Audio and visual are one column of zeros that is never present. Text is what needs no encoder
(`data.text_encoder` is better): the words and pairs of neighbouring words, hashed with signs into
`WIDTH` columns ("hashing trick", Weinberger et al. 2009) and scaled to length 1. Nothing is
fitted, so nothing of validation or test can leak into it.
"""

from __future__ import annotations

import itertools
import re
import zlib
from pathlib import Path

import numpy as np

from emojax.data.readers.corpus import Corpus, assemble
from emojax.data.readers.csv_table import read_rows
from emojax.data.readers.meld import LABELS
from emojax.errors import DataError
from emojax.types import Conversation, Signature

FILES = {
    "train": "train_sent_emo.csv",
    "validation": "dev_sent_emo.csv",
    "test": "test_sent_emo.csv",
}
COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
WIDTH = 512
SPEAKERS = ("Joey", "Ross", "Rachel", "Phoebe", "Monica", "Chandler", "other")
TITLE = "MELD text CSV folder"

_WORD = re.compile(r"[a-z0-9']+")


def matches(folder: Path) -> bool:
    """Whether the folder holds any of the three tables."""
    return any((folder / name).is_file() for name in FILES.values())


def read(folder: Path, *, skip_bad: bool = False) -> Corpus:
    """The corpus of a folder with the three tables.

    Raises:
      DataError: see `assemble`; also a missing file or column and rows without a dialogue.
    """
    dialogues = {split: _dialogues(folder / name) for split, name in FILES.items()}

    def build(split: str, number: int) -> Conversation:
        path, name = folder / FILES[split], f"{split}_{number}"
        return _conversation(name, dialogues[split][number], path)

    return assemble(
        {split: sorted(found) for split, found in dialogues.items()},
        build,
        signature=Signature("meld_text", LABELS, SPEAKERS, (WIDTH, 1, 1)),
        layout=TITLE,
        source=folder,
        skip_bad=skip_bad,
    )


def hashed_ngrams(text: str) -> np.ndarray:
    """f32[WIDTH] of length 1, or zeros for an utterance without a word."""
    words = _WORD.findall(text.lower().replace("’", "'"))
    vector = np.zeros(WIDTH, np.float64)
    for gram in words + [" ".join(pair) for pair in itertools.pairwise(words)]:
        code = zlib.crc32(gram.encode())
        # The column comes from the low bits and the sign from the highest, so they are unrelated.
        vector[code % WIDTH] += 1.0 if code >> 31 else -1.0
    norm = np.linalg.norm(vector)
    return (vector / norm if norm else vector).astype(np.float32)


def _dialogues(path: Path) -> dict[int, list[dict[str, str]]]:
    """Rows of each dialogue, by the dialogue's number, in the file's order."""
    header, *table = read_rows(path)
    header = [name.strip() for name in header]
    if missing := [name for name in COLUMNS if name not in header]:
        raise DataError(
            f"there is no column {', '.join(missing)}",
            file=path,
            fix=f"The first row should name the columns {', '.join(COLUMNS)}",
        )
    dialogues: dict[int, list[dict[str, str]]] = {}
    for number, cells in enumerate(table, start=2):
        if len(cells) != len(header):
            raise DataError(
                f"row {number} has {len(cells)} cells where the header has {len(header)}",
                file=path,
                fix="The file may be truncated: fetch it again",
            )
        row = dict(zip(header, cells, strict=True))
        dialogue = _number(row, "Dialogue_ID", path, place=f"row {number}: ")
        dialogues.setdefault(dialogue, []).append(row)
    return dialogues


def _number(
    row: dict[str, str],
    column: str,
    path: Path,
    *,
    conversation: str | None = None,
    place: str = "",
) -> int:
    try:
        return int(row[column])
    except ValueError:
        raise DataError(
            f"{place}{row[column][:40]!r} is not a number",
            file=path,
            conversation=conversation,
            field=column,
        ) from None


def _conversation(name: str, table: list[dict[str, str]], path: Path) -> Conversation:
    order = [_number(row, "Utterance_ID", path, conversation=name) for row in table]
    if len(set(order)) != len(order):
        raise DataError(
            "two utterances have the same number",
            file=path,
            conversation=name,
            field="Utterance_ID",
        )
    table = [row for _, row in sorted(zip(order, table, strict=True), key=lambda pair: pair[0])]
    emotions = [row["Emotion"].strip().lower() for row in table]
    if unknown := sorted(set(emotions) - set(LABELS)):
        raise DataError(
            f"unknown emotion {unknown[0][:40]!r}",
            file=path,
            conversation=name,
            field="label",
            fix=f"Known are {', '.join(LABELS)}",
        )
    speakers = [row["Speaker"].strip() for row in table]
    length = len(table)
    present = np.zeros((length, 3), bool)
    present[:, 0] = True
    return Conversation(
        name,
        text=np.stack([hashed_ngrams(row["Utterance"]) for row in table]),
        audio=np.zeros((length, 1), np.float32),
        visual=np.zeros((length, 1), np.float32),
        present=present,
        speaker=np.array(
            [SPEAKERS.index(who if who in SPEAKERS else "other") for who in speakers], np.int32
        ),
        label=np.array([LABELS.index(emotion) for emotion in emotions], np.int32),
        transcript=tuple(row["Utterance"].strip() for row in table),
    )
