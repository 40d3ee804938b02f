"""EmoDB's recordings and what their names say (F. Burkhardt et al., Interspeech 2005)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from emojax.errors import DataError

RATE = 16_000
EMOTIONS = ("anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral")
SPEAKERS = ("03", "08", "09", "10", "11", "12", "13", "14", "15", "16")

_LETTERS = "WLEAFTN"
"""Of the German words, in the order of `EMOTIONS`."""
_NAME = re.compile(rf"({'|'.join(SPEAKERS)})[ab]\d\d([{_LETTERS}])[a-z]")


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """N utterances, in the order of their names.

    Attributes:
      names: as 03a01Fa: speaker, sentence, emotion, take.
      samples: i16[N, S], zeros at the end.
      length: i32[N]; samples of each.
      speaker, label: i32[N]; into `SPEAKERS` and `EMOTIONS`.
    """

    names: tuple[str, ...]
    samples: np.ndarray
    length: np.ndarray
    speaker: np.ndarray
    label: np.ndarray


def read(source: Path) -> Corpus:
    """From the folder of wav files, or the file that `save` wrote.

    Raises:
      DataError: nothing is there, or a name or a file is not as EmoDB's are.
    """
    if source.is_file():
        with np.load(source, allow_pickle=False) as found:
            return _corpus(found["names"].tolist(), found["samples"], found["length"])
    from emojax.data.wav import read_wav

    files = sorted([*source.glob("*.wav"), *source.glob("wav/*.wav")])
    if not files:
        raise DataError(
            "no wav files are there", file=source, fix="Give the folder of EmoDB's recordings"
        )
    sounds = [np.round(read_wav(file, RATE) * 32768).astype(np.int16) for file in files]
    # The copy at hand is padded with digital silence, which no microphone makes.
    length = np.array([_end(sound) for sound in sounds], np.int32)
    samples = np.zeros((len(files), length.max()), np.int16)
    for row, (sound, end) in enumerate(zip(sounds, length, strict=True)):
        samples[row, :end] = sound[:end]
    return _corpus([file.stem for file in files], samples, length)


def save(corpus: Corpus, to: Path) -> None:
    """As one compressed file."""
    np.savez_compressed(
        to, names=np.array(corpus.names), samples=corpus.samples, length=corpus.length
    )


def _end(sound: np.ndarray) -> int:
    loud = np.flatnonzero(sound)
    return int(loud[-1]) + 1 if len(loud) else 0


def _corpus(names: list[str], samples: np.ndarray, length: np.ndarray) -> Corpus:
    found = [_NAME.fullmatch(name) for name in names]
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise DataError(
                "not a name of EmoDB's", file=f"{name}.wav",
                fix="Names are like 03a01Fa: speaker, sentence, emotion, take",
            )  # fmt: skip
    parts = [match.groups() for match in found if match is not None]
    return Corpus(
        tuple(names), samples, length,
        np.array([SPEAKERS.index(speaker) for speaker, _ in parts], np.int32),
        np.array([_LETTERS.index(letter) for _, letter in parts], np.int32),
    )  # fmt: skip
