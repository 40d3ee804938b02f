"""What is trained, in which order, and how settings are chosen without the test speaker.

A lane holds speakers out. Held out alone, a speaker is tested by it. Held out in a pair (a, b), it
stands in the search: for the test speaker a it was trained without a and is judged on b, and for
the test speaker b the other way round; so 45 lanes judge a candidate for all ten test speakers,
each on the other nine, and no decision ever saw the test speaker.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.emodb.corpus import SPEAKERS
from experiments.emodb.settings import Settings

_LIGHT = {
    "tempo": 0.1, "voice": 0.05, "pitch": 0.1, "gain": 3.0, "tilt": 3.0, "noise": 0.25,
    "frames": 12.0, "bands": 4.0,
}  # fmt: skip
_HEAVY = {
    "tempo": 0.3, "voice": 0.2, "pitch": 0.4, "gain": 12.0, "tilt": 12.0, "noise": 0.7,
    "frames": 35.0, "bands": 12.0,
}  # fmt: skip
_REGULAR = {"dropout": 0.4, "decay": 0.2}

CANDIDATES: Mapping[str, Settings] = {
    "middle": Settings(),
    "heavy": Settings(**_HEAVY),
    "no functionals": Settings(functionals=0.0),
    "regular": Settings(**_REGULAR),
    "light": Settings(**_LIGHT),
    "relative": Settings(absolute=0.0),
    "no mixup": Settings(mix=0.0),
    "heavy, regular": Settings(**_HEAVY, **_REGULAR),
    "all mixed": Settings(mix=1.0),
    "fast": Settings(rate=5e-3),
    "half absolute": Settings(absolute=0.3),
    "slow": Settings(rate=7e-4),
    "light, regular": Settings(**_LIGHT, **_REGULAR),
    "own ways": Settings(auxiliary=1.0),
    "no auxiliary": Settings(auxiliary=0.0),
}
"""The first is trained in any case. It alone was tried while this was written, on the first five
speakers, four to train on and one to listen to; the others were written down untried."""

FIXED, SEARCH, FINAL = "fixed", "search", "final"


@dataclasses.dataclass(frozen=True)
class Job:
    """One lane.

    Attributes:
      stage: `FIXED` settings, `SEARCH`, or `FINAL` with those that were found.
      settings: name of a candidate.
      held: the speakers held out.
      seed: of everything drawn.
    """

    stage: str
    settings: str
    held: tuple[str, ...]
    seed: int


def fixed(seeds: Iterable[int]) -> list[Job]:
    """Every test speaker and seed with the first candidate."""
    first = next(iter(CANDIDATES))
    return [Job(FIXED, first, (s,), seed) for seed in seeds for s in SPEAKERS]


def search(candidate: str) -> list[Job]:
    """Every pair of speakers."""
    pairs = list(itertools.combinations(SPEAKERS, 2))
    return [Job(SEARCH, candidate, pair, 1000 + i) for i, pair in enumerate(pairs)]


def final(chosen: Mapping[str, str], seeds: Iterable[int]) -> list[Job]:
    """Every test speaker and seed with the settings chosen for that speaker."""
    return [Job(FINAL, chosen[s], (s,), seed) for seed in seeds for s in SPEAKERS]


def choose(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    """For each test speaker the candidate that is best on the others, and what each reached.

    Args:
      lines: results; those of `SEARCH` count. Candidates that not all pairs were trained with, as
        time was up, do not stand for choice.
    """
    found: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        if line["stage"] == SEARCH:
            found.setdefault(line["settings"], []).append(line)
    whole = {name: each for name, each in found.items() if len(each) >= len(search(name))}
    reached = {
        speaker: {
            name: recall(
                (truth, said)
                for line in each if speaker in line["held"]
                for of, truth, said in decisions(line) if of != speaker
            )
            for name, each in whole.items()
        }
        for speaker in SPEAKERS
    }  # fmt: skip
    first = next(iter(CANDIDATES))
    chosen = {s: max(r, key=r.__getitem__) if r else first for s, r in reached.items()}
    return chosen, reached


def decisions(line: Mapping[str, Any], of: str = "both") -> Iterable[tuple[str, int, int]]:
    """Speaker, emotion and decision of each utterance that a lane was asked about."""
    for name, truth, said in zip(line["names"], line["label"], line[of], strict=True):
        yield name[:2], truth, said


def recall(pairs: Iterable[tuple[int, int]]) -> float:
    """Unweighted average recall: the mean over emotions of the share that is found."""
    truth, said = np.array(list(pairs)).T
    return float(np.mean([(said[truth == k] == k).mean() for k in np.unique(truth)]))
