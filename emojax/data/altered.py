"""A corpus as a run is to see it: less of it, or corrupted."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from emojax.config import DataConfig
from emojax.config.corruption import Corruption, parse_all
from emojax.data.corruptions import corrupt
from emojax.data.prepare import PreparedCorpus
from emojax.data.splits import places_of_share
from emojax.data.statistics import Statistics, fit_statistics
from emojax.types import Conversation

_FITTED: dict[tuple[str, float, tuple[str, ...]], Statistics] = {}
"""By the training split's hash, its share and its corruptions: a study opens the same corpus again
for each of its runs."""


class Corrupted(Sequence[Conversation]):
    """Some of the records of a corpus, corrupted when they are read.

    Args:
      corpus: whose training split noise is measured against.
      places: of the records that are left; None is all.
    """

    def __init__(
        self, records: Sequence[Conversation], corpus: PreparedCorpus,
        corruptions: Sequence[Corruption], places: Sequence[int] | None = None,
    ):  # fmt: skip
        self._records, self._corpus, self._corruptions = records, corpus, corruptions
        self._places = range(len(records)) if places is None else places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: SupportsIndex) -> Conversation:  # type: ignore[override]
        found = self._records[self._places[index.__index__()]]
        if not self._corruptions:
            return found
        return corrupt(found, self._corruptions, self._corpus.spread)


@dataclasses.dataclass(frozen=True, eq=False)
class AlteredCorpus(PreparedCorpus):
    """A prepared corpus, altered; `hashes` are those of what was prepared.

    Attributes:
      places: of the training conversations that are left.
      corruptions: of training and validation conversations.
    """

    places: tuple[int, ...]
    corruptions: tuple[Corruption, ...]

    def ids(self, split: str) -> tuple[str, ...]:
        found = super().ids(split)
        return tuple(found[place] for place in self.places) if split == "train" else found

    def lengths(self, split: str) -> np.ndarray:
        found = super().lengths(split)
        return found[list(self.places)] if split == "train" else found

    def split(self, split: str) -> Sequence[Conversation]:
        found = super().split(split)
        if split == "test":
            return found
        return Corrupted(found, self, self.corruptions, self.places if split == "train" else None)


def altered(corpus: PreparedCorpus, config: DataConfig) -> PreparedCorpus:
    """The corpus with the share and the corruptions that a config asks for.

    Its statistics are those of what is left of the training split, as it is after corruption: a run
    knows nothing else.
    """
    if config.train_share == 1 and not config.corrupt:
        return corpus
    known = {field.name: getattr(corpus, field.name) for field in dataclasses.fields(corpus)}
    places = places_of_share(corpus.ids("train"), config.train_share)
    found = AlteredCorpus(**known, places=places, corruptions=parse_all(config.corrupt))
    key = corpus.hashes["train"]["content"], config.train_share, config.corrupt
    if key not in _FITTED:
        _FITTED[key] = fit_statistics(
            found.split("train"), corpus.signature.widths, len(corpus.signature.labels)
        )
    return dataclasses.replace(found, statistics=_FITTED[key])
