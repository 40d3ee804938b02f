"""CMU-MOSI, the utterance features of bc-LSTM as a folder of CSV files.

Row i of `transcripts.csv` tells an utterance's name `<video>_<n>`, words and label. The first
column of `text_train.csv` holds such row numbers i, in the row order of the feature tables
`{text,audio,video}/..._train0.csv`, whose last column repeats the label; likewise for test.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np

from emojax.data.readers.corpus import Corpus, assemble, natural_key
from emojax.data.readers.csv_table import read_rows
from emojax.errors import DataError
from emojax.types import MODALITIES, Conversation, Signature

TRANSCRIPTS = "transcripts.csv"
TABLES = {
    "text": "text/text_{}0.csv",
    "audio": "audio/audio_{}0.csv",
    "visual": "video/video_{}0.csv",
}
FILES = [TRANSCRIPTS] + [
    name.format(split) for split in ("train", "test") for name in ("text_{}.csv", *TABLES.values())
]
LABELS = ("negative", "positive")
TITLE = "CMU-MOSI bc-LSTM CSV folder"

_NAME = re.compile(r".{1,200}_[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}")


def matches(folder: Path) -> bool:
    """Whether the folder holds the transcripts and any feature table."""
    return (folder / TRANSCRIPTS).is_file() and any((folder / name).is_file() for name in FILES[1:])


@dataclasses.dataclass(frozen=True)
class _Utterance:
    """One row of every table of a split; `number` orders the utterances of a video."""

    number: int
    words: str
    features: dict[str, list[str]]
    labels: set[str]


def read(folder: Path, *, skip_bad: bool = False) -> Corpus:
    """The corpus of a complete folder. It has no validation split.

    Raises:
      DataError: see `assemble`; also a missing file and tables that do not fit together.
    """
    transcripts = read_rows(folder / TRANSCRIPTS)
    for number, row in enumerate(transcripts, start=1):
        if len(row) != 4 or not _NAME.fullmatch(row[0]):
            raise DataError(
                f"row {number} is not `<video>_<n>, words, number, label`",
                file=folder / TRANSCRIPTS,
                fix="The file may be truncated: fetch it again",
            )
    videos = {split: _videos(folder, split, transcripts) for split in ("train", "test")}
    widths = tuple(
        _usual_width(videos["train"], modality, folder / TABLES[modality].format("train"))
        for modality in MODALITIES
    )

    def build(split: str, video: str) -> Conversation:
        return _conversation(video, videos[split][video], folder, split)

    return assemble(
        {split: sorted(found, key=natural_key) for split, found in videos.items()},
        build,
        signature=Signature("mosi", LABELS, ("speaker",), widths),  # type: ignore[arg-type]
        layout=TITLE,
        source=folder,
        skip_bad=skip_bad,
    )


def _videos(folder: Path, split: str, transcripts: list[list[str]]) -> dict[str, list[_Utterance]]:
    """The utterances of each video of a split, in the tables' order."""
    index_file = folder / f"text_{split}.csv"
    index = [row[0] for row in read_rows(index_file)]
    tables = {name: read_rows(folder / path.format(split)) for name, path in TABLES.items()}
    for name, table in tables.items():
        if len(table) != len(index):
            raise DataError(
                f"{len(table)} rows where {index_file.name} has {len(index)}",
                file=folder / TABLES[name].format(split),
                fix="One of the two is truncated: fetch them again",
            )
    videos: dict[str, list[_Utterance]] = {}
    for row, place in enumerate(index):
        if not _NUMBER.fullmatch(place) or int(place) >= len(transcripts):
            raise DataError(
                f"row {row + 1} points to row {place[:20]!r} of {TRANSCRIPTS}, "
                f"which has {len(transcripts)}",
                file=index_file,
            )
        name, words, _, label = transcripts[int(place)]
        video, number = name.rsplit("_", 1)
        videos.setdefault(video, []).append(
            _Utterance(
                int(number),
                words,
                {modality: table[row][:-1] for modality, table in tables.items()},
                {label, *(table[row][-1] for table in tables.values())},
            )
        )
    return videos


def _conversation(
    video: str, utterances: list[_Utterance], folder: Path, split: str
) -> Conversation:
    utterances = sorted(utterances, key=lambda utterance: utterance.number)
    numbers = [utterance.number for utterance in utterances]
    if len(set(numbers)) != len(numbers):
        raise DataError(
            "two utterances have the same number",
            file=folder / f"text_{split}.csv",
            conversation=video,
        )
    for utterance in utterances:
        if len(utterance.labels) != 1 or not utterance.labels <= {"0", "1"}:
            found = " and ".join(sorted(utterance.labels))
            raise DataError(
                f"utterance {utterance.number} is labelled {found}",
                file=folder / TRANSCRIPTS,
                conversation=video,
                field="label",
                fix="The transcripts and the last column of every table should agree on 0 or 1",
            )
    features = {}
    for modality in MODALITIES:
        path = folder / TABLES[modality].format(split)
        cells = [utterance.features[modality] for utterance in utterances]
        if len({len(row) for row in cells}) != 1:
            raise DataError("rows differ in width", file=path, conversation=video, field=modality)
        try:
            with np.errstate(over="ignore"):
                features[modality] = np.array(cells, np.float64).astype(np.float32)
        except ValueError as error:
            raise DataError(
                f"not a number: {error}", file=path, conversation=video, field=modality
            ) from error
    return Conversation(
        video,
        **features,
        present=np.ones((len(utterances), len(MODALITIES)), bool),
        speaker=np.zeros(len(utterances), np.int32),
        label=np.array([int(next(iter(each.labels))) for each in utterances], np.int32),
        transcript=tuple(utterance.words for utterance in utterances),
    )


def _usual_width(videos: dict[str, list[_Utterance]], modality: str, path: Path) -> int:
    """The width of most rows, so that one bad row is not taken for the rule."""
    counted = Counter(
        len(utterance.features[modality]) for found in videos.values() for utterance in found
    )
    width = counted.most_common(1)[0][0]
    if width == 0:
        raise DataError("there are no feature columns", file=path)
    return width
