"""What a study found: tables and a plot, from its results alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emojax.errors import DataError
from emojax.evaluate.bootstrap import draw
from emojax.evaluate.plots import GREY, INK, PALE, STYLE, clean
from emojax.evaluate.significance import bootstrap_p, holm, mcnemar
from experiments.sheet import Sheet, spread
from experiments.store import METRICS, Result

RESAMPLES = 2000
LEVEL = 0.95


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant against the reference.

    Attributes:
      seeds: how many runs there are.
      values: of each test metric, a seed each.
      difference, low, high: accuracy minus the reference's, mean over the seeds that both have,
        and its interval over dialogues; NaN for the reference.
      p_bootstrap, p_mcnemar: of that difference, corrected by Holm over the table.
    """

    variant: str
    seeds: int
    parameters: int
    seconds: float
    values: Mapping[str, Sequence[float]]
    difference: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p_bootstrap: float = np.nan
    p_mcnemar: float = np.nan

    def percent(self, metric: str) -> np.ndarray:
        """f64[seeds]"""
        return 100 * np.array(self.values[metric])

    def mean(self, metric: str) -> float:
        return float(np.mean(self.values[metric]))

    def deviation(self, metric: str) -> float:
        """Sample deviation over seeds; NaN of one."""
        return float(np.std(self.values[metric], ddof=1)) if self.seeds > 1 else np.nan


def compare(results: Sequence[Result], order: Sequence[str], reference: str) -> list[Row]:
    """A row for each variant that has results, in the given order.

    Raises:
      DataError: results are of different test splits.
    """
    runs = {name: {r.seed: r for r in results if r.variant == name} for name in order}
    runs = {name: found for name, found in runs.items() if found}
    if len({r.corpus for found in runs.values() for r in found.values()}) > 1:
        raise DataError("the results are of different test splits and cannot stand in one table")
    rows = [_summary(name, list(found.values())) for name, found in runs.items()]
    if reference not in runs:
        return rows
    others = [row.variant for row in rows if row.variant != reference]
    tests = {}
    for name in others:
        seeds = sorted(runs[name].keys() & runs[reference].keys())
        if seeds:
            ours, theirs = ([runs[n][seed] for seed in seeds] for n in (name, reference))
            tests[name] = _paired(ours, theirs)
    by_bootstrap = holm([test["p_bootstrap"] for test in tests.values()])
    by_mcnemar = holm([test["p_mcnemar"] for test in tests.values()])
    for test, b, m in zip(tests.values(), by_bootstrap, by_mcnemar, strict=True):
        test |= {"p_bootstrap": b, "p_mcnemar": m}
    return [dataclasses.replace(row, **tests.get(row.variant, {})) for row in rows]


def _summary(name: str, found: Sequence[Result]) -> Row:
    return Row(
        variant=name, seeds=len(found), parameters=found[0].parameters,
        seconds=float(np.mean([each.seconds for each in found])),
        values={metric: [each.scores["test"][metric] for each in found] for metric in METRICS},
    )  # fmt: skip


def _paired(ours: Sequence[Result], theirs: Sequence[Result]) -> dict[str, float]:
    """Of two variants with the same seeds."""
    count = np.bincount(ours[0].dialogue, minlength=len(ours[0].label))
    gain = np.mean([_hits(a) - _hits(b) for a, b in zip(ours, theirs, strict=True)], axis=0)
    drawn = draw(len(count), RESAMPLES, seed=0)
    samples = gain[drawn].sum(1) / count[drawn].sum(1)
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(samples, tails)
    # What most seeds have right: one decision for each utterance, as the test wants it.
    most = [np.mean([each.right for each in several], axis=0) > 0.5 for several in (ours, theirs)]
    return {
        "difference": float(gain.sum() / count.sum()), "low": float(low), "high": float(high),
        "p_bootstrap": bootstrap_p(samples), "p_mcnemar": mcnemar(*most),
    }  # fmt: skip


def _hits(result: Result) -> np.ndarray:
    """f64[N] utterances that are right, by dialogue in the order of their names."""
    return np.bincount(result.dialogue, result.right, len(result.label))


def _p(value: float) -> str:
    return "–" if np.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def difference(row: Row) -> tuple[str, str]:
    """That of accuracy in points with its interval, and p by the bootstrap."""
    if np.isnan(row.difference):
        return "reference", _p(row.p_bootstrap)
    low, high = 100 * row.low, 100 * row.high
    return f"{100 * row.difference:+.1f} [{low:+.1f}, {high:+.1f}]", _p(row.p_bootstrap)


HEADER = (
    "variant", "seeds", "parameters", "accuracy, %", "weighted F1, %", "macro F1, %", "NLL, nats",
    "ECE, %", "difference in accuracy, %", "p (bootstrap)", "p (McNemar)", "training, s",
)  # fmt: skip


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's texts, the best accuracy first."""
    ranked = sorted(rows, key=lambda row: -row.mean("accuracy"))
    return [
        [
            row.variant, str(row.seeds), f"{row.parameters:,}",
            *(spread(row.percent(m)) for m in ("accuracy", "weighted_f1", "macro_f1")),
            spread(row.values["nll"], 3), spread(row.percent("ece")),
            *difference(row), _p(row.p_mcnemar), f"{row.seconds:.0f}",
        ]
        for row in ranked
    ]  # fmt: skip


NOTE = (
    "Test scores of the selected epochs (see the cards), mean ± sample deviation over seeds, none "
    f"dropped. Differences are to the reference, paired by seed, with {LEVEL:.0%} intervals of "
    f"{RESAMPLES} resamples of dialogues; p values are corrected by Holm over the table. McNemar "
    "compares what most seeds decide, and takes utterances to be independent."
)


def sheet(rows: Sequence[Row], title: str) -> Sheet:
    """The table of a study."""
    return Sheet(title, HEADER, cells(rows), NOTE)


def figure(rows: Sequence[Row], title: str) -> Figure:
    """Accuracy of every seed and its mean, the best variant on top."""
    ranked = sorted(rows, key=lambda row: row.mean("accuracy"))
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7, 1.2 + 0.3 * len(ranked)), layout="constrained")
        axes = drawn.add_subplot()
        for y, row in enumerate(ranked):
            each = row.percent("accuracy")
            axes.plot(each, [y] * len(each), "o", color=GREY, markersize=4, alpha=0.6)
            axes.plot(each.mean(), y, "|", color=INK, markersize=16, mew=2)
        axes.set_yticks(range(len(ranked)), [clean(row.variant, 40) for row in ranked])
        axes.set(xlabel="test accuracy, % (a dot a seed, a line the mean)", title=clean(title, 80))
        axes.grid(axis="x", color=PALE, linewidth=0.6)
    return drawn
