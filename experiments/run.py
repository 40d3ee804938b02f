"""Run a study: many trainings, one append-only file of results, tables drawn from it alone.

    python -m experiments.run main_table --out runs/main_table --seeds 10
    python -m experiments.run main_table --out runs/main_table --redraw

Studies are the modules of `experiments.studies`; each says its question, cost and expected result.
Every run is trained and evaluated as `emojax train` and `emojax evaluate` do, into OUT/runs, and
becomes a line of OUT/results.jsonl. Started again, a study trains what is not there yet and goes on
with a run that was cut short. OUT/table.md, OUT/table.tex and OUT/accuracy.png are drawn at the
end, and after every seed, so that there is something to look at early.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from emojax.cli import main as emojax
from emojax.config import Config, digest, from_dict, load, override, to_dict
from emojax.errors import ConfigError, EmojaxError
from emojax.evaluate import plots
from experiments import studies, tables
from experiments.outcome import result_of
from experiments.store import Store

SHOWN = ("variant", "seeds", "accuracy, %", "difference in accuracy, %", "p (bootstrap)")
"""Columns that a terminal has room for."""


def names() -> list[str]:
    """The studies there are."""
    return sorted(module.name for module in pkgutil.iter_modules(studies.__path__))


def configs(
    study: ModuleType, seeds: int, values: dict[str, Any], settings: list[str]
) -> list[tuple[str, Config]]:
    """(variant, config) of every run, all variants of a seed before the next seed.

    Raises:
      ConfigError: a variant cannot be built from these settings; before anything is trained.
    """
    found = []
    for seed in range(seeds):
        for variant, changes in study.VARIANTS.items():
            assignments = [*changes, *settings, f"train.seed={seed}"]
            try:
                found.append((variant, from_dict(override(values, assignments))))
            except ConfigError as error:
                raise ConfigError(f"{variant}: {error}") from error
    return found


def trained(folder: Path, config: Config) -> None:
    """Train one run, or go on with it."""
    arguments = ["train", "--out", str(folder), "--resume", "--quiet"]
    if not (folder / "run.json").exists():
        arguments += [f"--set={assignment}" for assignment in assignments(config)]
    if status := emojax(arguments):
        sys.exit(status)


def assignments(config: Config) -> list[str]:
    """Every value of a config as `override` reads it."""
    return [
        f"{section}.{name}={'null' if value is None else json.dumps(value)}"
        for section, fields in to_dict(config).items()
        for name, value in fields.items()
    ]


def draw(study: ModuleType, name: str, store: Store, out: Path) -> list[tables.Row]:
    """Write what the results say."""
    rows = tables.compare(store.results, list(study.VARIANTS), study.REFERENCE)
    title = f"{name}: {(study.__doc__ or '').splitlines()[0]}"
    (out / "table.md").write_text(tables.markdown(rows, title), encoding="utf-8")
    (out / "table.tex").write_text(tables.latex(rows, title), encoding="utf-8")
    figure = tables.figure(rows, store.results, name)
    (out / "accuracy.png").write_bytes(plots.render(figure))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("study", choices=names(), metavar="STUDY", help=", ".join(names()))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", metavar="SOURCE", help="a feature file or folder")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings of all variants")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE",
        help="a setting of all variants, even where a variant says otherwise",
    )  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help="tables from what is there, no run")
    parser.add_argument("--resume", action="store_true", help="what happens anyway")
    options = parser.parse_args()
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    console = Console()
    study = importlib.import_module(f"experiments.studies.{options.study}")
    settings = [*([f"data.source={options.data}"] if options.data else []), *options.overrides]
    try:
        store = Store(options.out / "results.jsonl")
        if not options.redraw:
            values = load(options.config) if options.config else {}
            _train(study, configs(study, options.seeds, values, settings), store, options, console)
        if not store.results:
            raise ConfigError(f"{store.path} holds no result to draw")
        rows = draw(study, options.study, store, options.out)
    except (EmojaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = [tables.HEADER.index(name) for name in SHOWN]
    table = Table(*SHOWN)
    for each in tables.cells(rows):
        table.add_row(*(each[i] for i in shown))
    console.print(table)
    console.print(f"{options.out / 'table.md'}, table.tex, accuracy.png")
    return 0


def _train(
    study: ModuleType, wanted: list[tuple[str, Config]], store: Store, options: argparse.Namespace,
    console: Console,
) -> None:  # fmt: skip
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(wanted))
        for variant, config in wanted:
            progress.update(task, description=f"{variant}, seed {config.train.seed}")
            if store.find(digest(config)) is None:
                folder = options.out / "runs" / digest(config)
                trained(folder, config)
                store.append(result_of(folder, variant))
                if variant == list(study.VARIANTS)[-1]:
                    draw(study, options.study, store, options.out)
            progress.advance(task)


if __name__ == "__main__":
    sys.exit(main())
