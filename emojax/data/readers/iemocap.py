"""IEMOCAP's public feature pickles: the 12-tuple of SDT and ReDiFu, the 9-tuple of MMGCN.

Of the 12-tuple's four RoBERTa layers the first is read, as the published models do.
"""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from emojax.data.readers.corpus import Corpus
from emojax.data.readers.feature_tuple import TupleLayout, read_feature_tuple, rows

LABELS = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
SPEAKERS = ("M", "F")
LAYOUTS = (
    TupleLayout("IEMOCAP 12-tuple pickle", 12, str, (3, 7, 8), 9),
    TupleLayout("IEMOCAP 9-tuple pickle", 9, str, (3, 4, 5), 6),
)


def read(content: Any, path: Path, *, skip_bad: bool = False) -> Corpus | None:
    """The corpus in a pickle's content, or None if its layout is another.

    Neither file has a validation split.
    """
    for layout in LAYOUTS:
        if layout.matches(content):
            return read_feature_tuple(
                content,
                layout,
                name="iemocap",
                labels=LABELS,
                speakers=SPEAKERS,
                speaker_index=_speakers,
                carve=lambda ids: ids,
                path=path,
                skip_bad=skip_bad,
            )
    return None


def _speakers(value: Any) -> np.ndarray:
    speakers = []
    for entry in rows(value):
        if not isinstance(entry, str) or entry not in SPEAKERS:
            raise ValueError(f"unknown speaker {reprlib.repr(entry)}, known are 'M' and 'F'")
        speakers.append(SPEAKERS.index(entry))
    return np.array(speakers, np.int32)
