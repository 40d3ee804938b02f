"""What was published of the models here, and why it compares with a study or does not."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path

from emojax.config import MODELS
from emojax.errors import ConfigError

FILE = Path(__file__).parent / "published.toml"


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of a paper.

    Attributes:
      model: its name here.
      corpus, metric: what was measured.
      source: where it was read.
      features, selection: the protocol behind it.
      comparable: whether it was found as studies here find theirs, given the corpus.
      reason: why it is, or is not.
      value: in the metric's unit; None where the source could not be looked up.
    """

    model: str
    corpus: str
    metric: str
    source: str
    features: str
    selection: str
    comparable: bool
    reason: str
    value: float | None = None

    def verdict(self, dataset: str) -> str:
        """Whether it compares with results on that corpus, and why."""
        elsewhere = dataset.lower() not in self.corpus.lower().replace(",", " ").split()
        reasons = [f"this study's corpus is {dataset}"] if elsewhere else []
        comparable = self.comparable and not elsewhere
        return f"{'yes' if comparable else 'no'}: {'; '.join([*reasons, self.reason])}"


def figures(path: Path = FILE) -> Sequence[Figure]:
    """All that are known.

    Raises:
      ConfigError: an entry is not one of a `Figure`, or of a model that is not here.
    """
    found = []
    for number, entry in enumerate(tomllib.loads(path.read_text("utf-8"))["figure"], start=1):
        try:
            figure = Figure(**entry)
        except TypeError as error:
            raise ConfigError(f"{path}, figure {number}: {error}") from error
        if figure.model not in MODELS:
            raise ConfigError(f"{path}, figure {number}: there is no model {figure.model!r}")
        found.append(figure)
    return found
