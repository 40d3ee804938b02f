"""Bootstrap over dialogues: how much a score owes to the dialogues that happened to be there.

Utterances of one dialogue are not independent, so whole dialogues are drawn with replacement
(the cluster bootstrap; Field & Welsh, 2007). A resample is a vector of how often each dialogue
was drawn, and its scores follow from that vector times the sums per dialogue: no loop.

The intervals are percentile intervals of the test set's sampling alone; they hold one trained
model fixed and say nothing of other seeds. The ECE is biased upwards in small samples and more
so in resamples of them: its interval may lie above its point estimate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.errors import DataError
from emojax.evaluate.metrics import Statistics, dialogue_statistics, measures
from emojax.types import Prediction

RESAMPLES = 1000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True, eq=False)
class Intervals:
    """Percentile intervals of every measure of `metrics.measures`.

    Attributes:
      low, high: by measure; f64[], f64[C] per class, f64[C, C] per cell.
      level: share of the resamples between low and high.
      resamples, seed: what makes the intervals reproducible.
    """

    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    level: float
    resamples: int
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Difference:
    """A measure of one system minus that of another on the same dialogues.

    Attributes:
      value: on all dialogues. low, high: percentile interval of the difference.
      share_positive: share of resamples with a difference above 0, ties counted half. Near 1
        the first system's measure is reliably higher, near 0 lower, near .5 neither.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    share_positive: np.ndarray


def draw(dialogues: int, resamples: int, seed: int) -> np.ndarray:
    """i64[R, N]: which of N dialogues each of R resamples consists of, with repetition."""
    return np.random.default_rng(seed).integers(0, dialogues, (resamples, dialogues))


def resample(statistics: Statistics, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Every measure on R resamples of the N dialogues: f64[R], f64[R, C] or f64[R, C, C]."""
    N = len(statistics)
    drawn = draw(N, resamples, seed)
    row = np.arange(resamples)[:, None] * N
    weight = np.bincount((row + drawn).ravel(), minlength=resamples * N).reshape(resamples, N)
    return measures(statistics.pool(weight.astype(np.float64)))


def bootstrap(
    predictions: Sequence[Prediction],
    C: int,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Intervals | None:
    """Intervals over dialogues for every measure; the same arguments give the same intervals.

    Returns:
      None with fewer than two labelled dialogues: all resamples would be that one dialogue, and
      an interval of width 0 would claim a certainty that is not there.

    Raises:
      DataError: see `metrics.dialogue_statistics`.
    """
    statistics = dialogue_statistics(predictions, C)
    if len(statistics) < 2:
        return None
    low, high = _percentiles(resample(statistics, resamples, seed), level)
    return Intervals(low, high, level, resamples, seed)


def paired_difference(
    first: Sequence[Prediction],
    second: Sequence[Prediction],
    C: int,
    *,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Difference]:
    """Every measure of `first` minus `second`, both scored on the same resampled dialogues.

    Pairing removes what both systems owe to the same easy or hard dialogues.

    Args:
      first, second: predictions of the same conversations with the same labels, in any order.

    Raises:
      DataError: the conversations or their labels differ, or fewer than two are labelled.
    """
    by_id = {prediction.id: prediction for prediction in second}
    for prediction in first:
        other = by_id.pop(prediction.id, None)
        if other is None:
            raise DataError("only the first system predicts it", conversation=prediction.id)
        if not np.array_equal(prediction.label, other.label):
            raise DataError(
                "the two systems were given different labels",
                conversation=prediction.id,
                field="label",
            )
    if by_id:
        raise DataError("only the second system predicts it", conversation=min(by_id))
    by_id = {prediction.id: prediction for prediction in second}
    one = dialogue_statistics(first, C)
    two = dialogue_statistics([by_id[prediction.id] for prediction in first], C)
    if len(one) < 2:
        raise DataError("a bootstrap over dialogues needs at least two labelled dialogues")

    everything = np.ones((1, len(one)))
    values = _subtract(measures(one.pool(everything)), measures(two.pool(everything)))
    samples = _subtract(resample(one, resamples, seed), resample(two, resamples, seed))
    low, high = _percentiles(samples, level)
    return {
        name: Difference(
            value=values[name][0],
            low=low[name],
            high=high[name],
            share_positive=((sample > 0) + 0.5 * (sample == 0)).mean(0),
        )
        for name, sample in samples.items()
    }


def _percentiles(
    samples: dict[str, np.ndarray], level: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    bounds = {name: np.quantile(sample, tails, axis=0) for name, sample in samples.items()}
    return {k: v[0] for k, v in bounds.items()}, {k: v[1] for k, v in bounds.items()}


def _subtract(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: a[name] - b[name] for name in a}
