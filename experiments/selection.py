"""The same runs at the epoch that validation chose and at the best test epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from emojax.errors import DataError
from experiments.sheet import Sheet, spread
from experiments.store import Result

METRIC = "weighted_f1"
"""What the best test epoch is the best by."""
SHOWN = ("accuracy", "weighted_f1")

HEADER = (
    "variant", "seeds", "chosen by validation: accuracy, %", "weighted F1, %",
    "best test epoch: accuracy, %", "weighted F1, %", "added accuracy", "added weighted F1",
    "best seed's best test epoch: accuracy, %", "weighted F1, %",
)  # fmt: skip

NOTE = (
    "Mean ± sample deviation over seeds of the same runs, their test split scored after every "
    f"epoch. The best test epoch is the one with the best test {METRIC}, as the field reports it; "
    "what that adds is in points and can be had without any better model. A difference between a "
    "published number and one chosen by validation that is no larger says nothing."
)


def best_epoch(result: Result) -> dict[str, Any]:
    """The record whose test score is best; of equals the earliest.

    Raises:
      DataError: training did not look at the test split.
    """
    if not result.history or not all("test" in record for record in result.history):
        raise DataError(
            f"the run of {result.variant}, seed {result.seed}, has no test scores of its epochs",
            fix="Train it with train.watch_test",
        )
    return max(result.history, key=lambda record: record["test"][METRIC])


def sheet(results: Sequence[Result], title: str) -> Sheet:
    """What choosing the epoch on the test split adds, the best by validation first."""
    ranked = []
    for variant in dict.fromkeys(each.variant for each in results):
        runs = [each for each in results if each.variant == variant]
        chosen = _scores([run.scores["test"] for run in runs])
        peeked = _scores([best_epoch(run)["test"] for run in runs])
        added = peeked - chosen
        luckiest = peeked[peeked[:, SHOWN.index(METRIC)].argmax()]
        cells = [variant, str(len(runs))]
        cells += [spread(column) for table in (chosen, peeked) for column in table.T]
        cells += [spread(column, sign="+") for column in added.T]
        cells += [f"{value:.1f}" for value in luckiest]
        ranked.append((chosen[:, 0].mean(), cells))
    rows = [cells for _, cells in sorted(ranked, key=lambda each: -each[0])]
    return Sheet(f"{title}: what choosing the epoch on the test split adds", HEADER, rows, NOTE)


def _scores(of_runs: Sequence[dict[str, float]]) -> np.ndarray:
    """f64[runs, len(SHOWN)] in percent."""
    return 100 * np.array([[scores[metric] for metric in SHOWN] for scores in of_runs])
