"""MELD's public feature pickles: the 13-tuple of SDT and ReDiFu, the 10-tuple of MMGCN.

Of the 13-tuple's four RoBERTa layers the first is read, as the published models do. Both files
call the official training and development dialogues together "train".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emojax.data.readers.corpus import Corpus
from emojax.data.readers.feature_tuple import TupleLayout, read_feature_tuple, rows, vector

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
SPEAKERS = tuple(f"speaker {index}" for index in range(9))
LAYOUTS = (
    TupleLayout("MELD 13-tuple pickle", 13, int, (3, 7, 8), 9),
    TupleLayout("MELD 10-tuple pickle", 10, int, (3, 4, 5), 6),
)
TRAIN, DEVELOPMENT, TEST = 1038, 114, 280
"""Dialogues of the official splits."""


def read(content: Any, path: Path, *, skip_bad: bool = False) -> Corpus | None:
    """The corpus in a pickle's content, or None if its layout is another."""
    for layout in LAYOUTS:
        if layout.matches(content):
            return read_feature_tuple(
                content,
                layout,
                name="meld",
                labels=LABELS,
                speakers=SPEAKERS,
                speaker_index=_speakers,
                carve=_official,
                path=path,
                skip_bad=skip_bad,
            )
    return None


def _official(ids: dict[str, list]) -> dict[str, list]:
    """The official development set is the end of the training ids, if the file is complete."""
    train, test = ids["train"], ids["test"]
    if (len(train), len(test)) != (TRAIN + DEVELOPMENT, TEST):
        return ids
    return {"train": train[:TRAIN], "validation": train[TRAIN:], "test": test}


def _speakers(value: Any) -> np.ndarray:
    speakers = []
    for utterance, entry in enumerate(rows(value)):
        hot = vector(entry)
        if sorted(hot.tolist()) != [0] * (len(SPEAKERS) - 1) + [1]:
            raise ValueError(
                f"the speaker of utterance {utterance} is not one-hot of {len(SPEAKERS)}"
            )
        speakers.append(int(hot.argmax()))
    return np.array(speakers, np.int32)
