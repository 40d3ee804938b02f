"""Results of studies: one line of JSON for each run, appended and never changed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import lzma
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import DataError
from emojax.files import write_atomically
from emojax.types import Prediction

METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "brier", "ece")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """A finished run.

    Attributes:
      variant: its name in the study.
      seed: of the training.
      config: digest of the whole config, seed included.
      corpus: hash of the test split's content.
      commit: of the code, with "+" where the working tree had changes; "" outside of git.
      scores: by split ("validation", "test"), then by metric.
      seconds: of training.
      parameters: how many numbers were trained.
      label, predicted: by test dialogue, of each utterance; label -1 is unlabelled.
      probability: of the predicted class.
      audit: what else is to be known of the run, and could not be found again (`outcome.audit`);
        empty in files from before there was any.
      history: of each epoch its number, "validation" scores and, if training looked, "test" scores.
      conditions: "scores" and "predicted", as above, of the test split under corruptions, by the
        corruptions' texts with a blank between them.
      missing: share of the test split's observations that are missing, by condition, those that
        the corpus itself lacks among them; "" is the split as it is.
    """

    variant: str
    seed: int
    config: str
    corpus: str
    commit: str
    scores: dict[str, dict[str, float]]
    seconds: float
    parameters: int
    label: dict[str, list[int]]
    predicted: dict[str, list[int]]
    probability: dict[str, list[float]]
    audit: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    conditions: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    missing: dict[str, float] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def right(self) -> np.ndarray:
        """bool[N] of the labelled utterances, dialogues in the order of their names."""
        return (self._flat(self.label) == self._flat(self.predicted))[self._flat(self.label) >= 0]

    @functools.cached_property
    def dialogue(self) -> np.ndarray:
        """i64[N] number of each one's dialogue."""
        lengths = [len(self.label[d]) for d in sorted(self.label)]
        return np.repeat(np.arange(len(lengths)), lengths)[self._flat(self.label) >= 0]

    def under(self, condition: str) -> Result | None:
        """The same run as if its test split had always been so; None if it was not looked at."""
        if not condition:
            return self
        if condition not in self.conditions:
            return None
        found = self.conditions[condition]
        return dataclasses.replace(
            self, predicted=found["predicted"], probability={}, conditions={}, history=[],
            scores={"test": found["scores"]}, missing={"": self.missing[condition]},
        )  # fmt: skip

    def _flat(self, values: dict[str, list[int]]) -> np.ndarray:
        chained = itertools.chain.from_iterable(values[d] for d in sorted(self.label))
        return np.fromiter(chained, np.int64)


def dialogues(predictions: Sequence[Prediction]) -> dict[str, dict[str, list[Any]]]:
    """Labels and decisions of a `Result`."""
    return {
        "label": {p.id: p.label.tolist() for p in predictions},
        "predicted": decisions(predictions),
        "probability": {p.id: p.probability.max(-1).round(3).tolist() for p in predictions},
    }


def decisions(predictions: Sequence[Prediction]) -> dict[str, list[int]]:
    """`Result.predicted`."""
    return {p.id: p.probability.argmax(-1).tolist() for p in predictions}


class Store:
    """A file of results, PATH, behind those that were packed, PATH.xz; opened again it knows both.

    Of the file a line that was cut short by a crash is dropped; any other damage is an error.
    """

    def __init__(self, path: Path):
        self.path, self.packed = path, path.with_name(f"{path.name}.xz")
        self.results: list[Result] = []
        if self.packed.exists():
            self._take(self._unpacked().splitlines(), self.packed)
        if not path.exists():
            return
        text = path.read_text(encoding="utf-8")
        *lines, rest = text.split("\n")
        self._take(lines, path)
        if rest:
            with path.open("r+", encoding="utf-8") as file:
                file.truncate(len("".join(f"{line}\n" for line in lines).encode()))

    def _take(self, lines: list[str], path: Path) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                self.results.append(Result(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DataError(f"line {number} is no result: {error}", file=path) from error

    def _unpacked(self) -> str:
        try:
            with lzma.open(self.packed, "rt", encoding="utf-8") as file:
                return file.read()
        except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
            raise DataError(f"is damaged: {error}", file=self.packed) from error

    def pack(self) -> None:
        """Move the file's lines to those that are packed, a tenth of the size and less."""
        if not self.path.exists():
            return
        earlier = self._unpacked() if self.packed.exists() else ""
        text = earlier + self.path.read_text(encoding="utf-8")
        # Killed before the file is gone, its results are there twice, and the last one counts.
        write_atomically(self.packed, lzma.compress(text.encode(), preset=9))
        self.path.unlink()

    def find(self, config: str, variant: str | None = None) -> Result | None:
        """The last result of that config, of that variant if one is named, if it is there."""
        for each in reversed(self.results):
            if each.config == config and variant in (None, each.variant):
                return each
        return None

    @property
    def newest(self) -> list[Result]:
        """What tables are about: of each variant and seed the last result."""
        return list({(each.variant, each.seed): each for each in self.results}.values())

    def append(self, result: Result) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.results.append(result)


def commit() -> str:
    """See `Result.commit`."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
