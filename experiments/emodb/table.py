"""What was found, from the lines alone."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.emodb import search
from experiments.emodb.corpus import EMOTIONS, SPEAKERS
from experiments.emodb.search import FINAL, FIXED, recall
from experiments.sheet import Sheet, spread

Lines = Sequence[Mapping[str, Any]]

OF = {"both": "log-mel CNN + prosody RNN", "mel": "log-mel CNN", "prosody": "prosody RNN"}
UNSEEN = SPEAKERS[5:]
"""Speakers on whom nothing was tried while the study was written."""
HEADER = ("", "seeds", "UAR, %", f"of {UNSEEN[0]}-{UNSEEN[-1]}", "accuracy, %", *EMOTIONS)
NOTE = (
    "Leave one speaker out, ten folds; unweighted average recall (UAR) over all 535 utterances, "
    "mean ± deviation over seeds; the same of five speakers on whom nothing was tried while the "
    "study was written; the recall of each emotion. Each seed is one model a fold, except in the "
    "row of the ensemble, whose models of all seeds decide together."
)


def whole(lines: Lines, stage: str) -> dict[int, Lines]:
    """By seed the lines of all test speakers; a seed that lacks a speaker is left out."""
    found: dict[int, list[Mapping[str, Any]]] = collections.defaultdict(list)
    for line in lines:
        if line["stage"] == stage:
            found[line["seed"]].append(line)
    return {
        seed: each for seed, each in sorted(found.items())
        if sorted(s for line in each for s in line["held"]) == sorted(SPEAKERS)
    }  # fmt: skip


def pairs(lines: Lines, of: str = "both") -> np.ndarray:
    """i64[N, 3]: speaker, emotion and decision of every utterance, in the order of the lines."""
    return np.array([
        (int(speaker), truth, said)
        for line in lines for speaker, truth, said in search.decisions(line, of)
    ])  # fmt: skip


def row(name: str, seeds: Sequence[np.ndarray]) -> list[str]:
    unseen = [each[each[:, 0] >= int(UNSEEN[0])] for each in seeds]
    right = [100 * (each[:, 1] == each[:, 2]).mean() for each in seeds]
    of_emotion = [
        np.mean([100 * (each[each[:, 1] == k, 2] == k).mean() for each in seeds])
        for k in range(len(EMOTIONS))
    ]
    return [
        name, str(len(seeds)), spread(_recalls(seeds)), spread(_recalls(unseen)), spread(right),
        *(f"{x:.0f}" for x in of_emotion),
    ]  # fmt: skip


def _recalls(seeds: Sequence[np.ndarray]) -> list[float]:
    return [100 * recall(map(tuple, each[:, 1:])) for each in seeds]


def sheets(lines: Lines, rivals: Lines) -> list[Sheet]:
    """The main table, the speakers' and, where there was a search, what it found."""
    found, plain = whole(lines, FINAL), whole(lines, FIXED)
    rows = []
    for seeds, how in ((found, "searched"), (plain, "fixed settings")):
        if seeds:
            each = list(seeds.values())
            rows += [row(f"{t}, {how}", [pairs(x, of) for x in each]) for of, t in OF.items()]
            rows.append(row(f"ensemble of {len(each)} seeds, {how}", [_together(each)]))
    for name in dict.fromkeys(line["settings"] for line in rivals):
        rows.append(row(name, [pairs([r for r in rivals if r["settings"] == name])]))
    main = Sheet("EmoDB, leave one speaker out", HEADER, rows, NOTE)
    speakers = _speakers(found or plain, rivals)
    return [main, speakers, *([_search(lines)] if found else [])]


def _together(seeds: Sequence[Lines]) -> np.ndarray:
    by_speaker = [sorted(each, key=lambda line: line["held"]) for each in seeds]
    total = [
        np.mean([line["log_probability"] for line in same], axis=0)
        for same in zip(*by_speaker, strict=True)
    ]
    every = pairs(by_speaker[0])
    every[:, 2] = np.concatenate(total).argmax(-1)
    return every


def _speakers(found: Mapping[int, Lines], rivals: Lines) -> Sheet:
    """Share of each test speaker's utterances that are told right."""

    def right(lines: Lines, speaker: str) -> list[float]:
        mine = [pairs([line]) for line in lines if line["held"] == [speaker]]
        return [100 * (each[:, 1] == each[:, 2]).mean() for each in mine]

    every = [line for each in found.values() for line in each]
    rows = [[OF["both"], *(spread(right(every, s)) for s in SPEAKERS)]] if every else []
    for name in dict.fromkeys(line["settings"] for line in rivals):
        mine = [line for line in rivals if line["settings"] == name]
        rows.append([name, *(spread(right(mine, s)) for s in SPEAKERS)])
    note = "Accuracy, %, of each speaker left out."
    return Sheet("EmoDB by speaker", ("", *SPEAKERS), rows, note)


def _search(lines: Lines) -> Sheet:
    """What each candidate reached on the nine others, for each test speaker."""
    chosen, reached = search.choose(lines)
    names = list(dict.fromkeys(name for each in reached.values() for name in each))
    rows = [
        [
            name,
            *(
                f"{100 * reached[s][name]:.1f}" + (" *" if chosen[s] == name else "")
                for s in SPEAKERS
            ),
        ]
        for name in names
    ]
    note = (
        "UAR, %, on the other nine speakers of models that knew neither them nor the test speaker "
        "named above; * is what was taken for that test speaker."
    )
    return Sheet("EmoDB, the search", ("", *SPEAKERS), rows, note)
