"""One config, many seeds or folds: train, evaluate, and say the mean and deviation.

    python -m experiments.seeds --config experiments/mosi.toml --data ../shared/data/mosi \\
        --out runs/mosi --seeds 10

Seeds are trained as one program, as those of studies are. Each is a run of its own under OUT/runs,
so every number can be looked up in its report, and what was interrupted goes on where it stopped.
The summary (test scores of the epochs that validation chose, mean ± sample deviation over seeds) is
printed and written to OUT/summary.json.

    python -m experiments.seeds --config experiments/mosi.toml --data ../shared/data/mosi \
        --out runs/mosi_folds --folds 6 --set model.window=4

cross-validates instead, to choose settings by: each fold of the conversations that are not tested
on is the validation split of one run. The test split is not read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.config import Config, digest, from_dict, override
from emojax.train.evaluation import evaluate_run
from experiments import command
from experiments.programs import LANES, programs, start, train
from experiments.sheet import spread

METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")


def reports(configs: dict[str, Config], out: Path, *, test: bool, console: Console) -> list[Any]:
    """Train and evaluate, or read the reports that are there already."""
    for names in programs(configs, out, LANES):
        train({name: configs[name] for name in names}, out, console)
    found = []
    for name in configs:
        folder = out / "runs" / name
        report = folder / "report" / "report.json"
        if not report.exists():
            evaluate_run(folder, test=test)
        found.append(json.loads(report.read_text(encoding="utf-8")))
    return found


def summarise(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean, sample deviation and values of each metric on each split."""
    summary: dict[str, Any] = {"runs": len(reports)}
    for split in reports[0]["splits"]:
        summary[split] = {}
        for metric in METRICS:
            values = [report["splits"][split][metric]["value"] for report in reports]
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            summary[split][metric] = {
                "mean": float(np.mean(values)), "deviation": deviation, "values": values,
            }  # fmt: skip
    reached = [report["reference"]["reached"] for report in reports if report.get("reference")]
    if reached:
        summary["reached"] = {"mean": float(np.mean(reached)), "least": min(reached)}
    return summary


def table(summary: dict[str, Any], title: str) -> Table:
    splits = [split for split in ("validation", "test") if split in summary]
    found = Table(title=f"{title}, mean ± deviation of {summary['runs']} runs")
    for column in ("metric", *splits):
        found.add_column(column, justify="left" if column == "metric" else "right")
    for metric in METRICS:
        found.add_row(metric, *(spread(summary[split][metric]["values"], 4) for split in splits))
    return found


def main() -> int:
    parser = command.parser("experiments.seeds", __doc__)
    command.add_settings(parser, "all runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folds", type=int, metavar="N", help="cross-validate in N folds instead")
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    start(options.out)
    console = Console()
    values, assignments = command.settings(options)
    each = [f"train.seed={seed}" for seed in range(options.seeds)]
    if options.folds:
        each = [f"data.split_rule=fold:{k}/{options.folds}" for k in range(1, options.folds + 1)]
    made = [from_dict(override(values, [*assignments, one])) for one in each]
    configs = {digest(config): config for config in made}
    found = reports(configs, options.out, test=not options.folds, console=console)
    summary = summarise(found)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(table(summary, str(options.out)))
    if "reached" in summary:
        print(f"Way from majority to Bayes: {summary['reached']['mean']:.1%} on average, "
              f"{summary['reached']['least']:.1%} at least")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
