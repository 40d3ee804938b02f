"""One config, many seeds or folds: train, evaluate, and say the mean and deviation.

    python -m experiments.seeds --config experiments/mosi.toml --data ../shared/data/mosi \\
        --out runs/mosi --seeds 10

Costs as many trainings as there are seeds. Each seed is a run of its own under OUT/seed_K, so an
interrupted study goes on where it stopped, and every number can be looked up in its report. The
summary (test scores of the epochs that validation chose, mean ± sample deviation over seeds) is
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

from emojax.cli import main as emojax
from emojax.errors import EmojaxError

METRICS = ("accuracy", "weighted_f1", "macro_f1", "nll", "ece")


def run_one(folder: Path, setting: str, arguments: list[str], *, test: bool) -> dict[str, Any]:
    """Train and evaluate one run, or read the report of these settings that is there already."""
    report = folder / "report" / "report.json"
    # A finished run is resumed too: it trains no more, but refuses settings that made another one.
    train = ["train", "--out", str(folder), "--resume", "--quiet", *arguments]
    if status := emojax([*train, "--set", setting]):
        sys.exit(status)
    evaluate = ["evaluate", str(folder), *([] if test else ["--no-test"])]
    if not report.exists() and (status := emojax(evaluate)):
        sys.exit(status)
    return json.loads(report.read_text(encoding="utf-8"))


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
        cells = []
        for split in splits:
            entry = summary[split][metric]
            spread = "" if entry["deviation"] is None else f" ± {entry['deviation']:.4f}"
            cells.append(f"{entry['mean']:.4f}{spread}")
        found.add_row(metric, *cells)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.seeds", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="a TOML file of settings")
    parser.add_argument("--data", help="a feature file or folder; the config's if left out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folds", type=int, metavar="N", help="cross-validate in N folds instead")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    arguments = [f"--set={assignment}" for assignment in options.overrides]
    if options.config:
        arguments += ["--config", str(options.config)]
    if options.data:
        arguments += ["--data", options.data]
    try:
        if options.folds:
            settings = {
                f"fold_{k}": f"data.split_rule=fold:{k}/{options.folds}"
                for k in range(1, options.folds + 1)
            }
        else:
            settings = {f"seed_{seed}": f"train.seed={seed}" for seed in range(options.seeds)}
        reports = [
            run_one(options.out / name, setting, arguments, test=not options.folds)
            for name, setting in settings.items()
        ]
    except EmojaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    summary = summarise(reports)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    Console().print(table(summary, str(options.out)))
    if "reached" in summary:
        print(f"Way from majority to Bayes: {summary['reached']['mean']:.1%} on average, "
              f"{summary['reached']['least']:.1%} at least")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
