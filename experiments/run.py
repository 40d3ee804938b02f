"""Run a study: many trainings, one append-only file of results, tables drawn from it alone.

    python -m experiments.run main_table --out runs/main_table --seeds 10
    python -m experiments.run main_table --out runs/main_table --redraw

Studies are the modules of `experiments.studies`; each says its question, cost and expected result.
Every run is trained and evaluated as `emojax train` and `emojax evaluate` do, in POOL/runs, and
becomes a line of OUT/results.jsonl; `emojax evaluate POOL/runs/RUN` writes the report of one. Runs
that differ in seeds, rates and weights alone are trained as one program, divided over the devices,
on CPU over its cores. Started again, a study trains what is not there yet and goes on with what was
cut short. OUT/table.md, OUT/table.tex, OUT/cards.md with an audit card for each variant,
OUT/accuracy.png and OUT/table.html, which holds all of them, are drawn after every program, so that
there is something to look at early. With `--pack` the results end up in OUT/results.jsonl.xz, small
enough for a repository: tables are redrawn from it, and a study with that OUT, on another machine
too, trains only what it lacks.

    python -m experiments.run ablation --out experiments/results/simulated_small/ablation --redraw
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Console
from rich.table import Table

from emojax.config import Config, digest, from_dict, load, override
from emojax.errors import ConfigError, NonFiniteError
from emojax.evaluate import plots
from experiments import cards, command, curves, html, studies, tables
from experiments.outcome import result_of
from experiments.programs import LANES, programs, start, train, trained
from experiments.published import figures
from experiments.store import Store

SHOWN = ("variant", "seeds", "accuracy, %", "difference in accuracy, %", "p (bootstrap)")
"""Columns that a terminal has room for."""


def names() -> list[str]:
    """The studies there are."""
    return sorted(module.name for module in pkgutil.iter_modules(studies.__path__))


def configs(
    study: ModuleType, seeds: int, values: dict[str, Any], settings: list[str],
    tuned: Path | None = None, only: Sequence[str] | None = None,
) -> list[tuple[str, Config]]:  # fmt: skip
    """(variant, config) of every run.

    Args:
      values: of all variants.
      settings: of all variants, even where a variant says otherwise.
      tuned: folder of MODEL.toml with settings of each model, which variants may say otherwise of.
      only: these variants, by name or by pattern, as of a shell; None is all.

    Raises:
      ConfigError: a variant cannot be built from these settings; before anything is trained.
    """
    for pattern in only or ():
        if not fnmatch.filter(study.VARIANTS, pattern):
            known = ", ".join(map(repr, study.VARIANTS))
            raise ConfigError(f"--only: there is no variant {pattern!r}; known are {known}")
    found = []
    for seed in range(seeds):
        for variant, changes in study.VARIANTS.items():
            if only and not any(fnmatch.fnmatchcase(variant, pattern) for pattern in only):
                continue
            assignments = [*changes, *settings, f"train.seed={seed}"]
            try:
                config = from_dict(override(values, assignments))
                if tuned is not None:
                    model = load(_searched(tuned, config.model.name))
                    config = from_dict(override(merged(values, model), assignments))
                found.append((variant, config))
            except ConfigError as error:
                raise ConfigError(f"{variant}: {error}") from error
    return found


def _searched(tuned: Path, model: str) -> Path:
    path = tuned / f"{model}.toml"
    if not path.exists():
        raise ConfigError(
            f"no settings of {model} were searched for ({path} is not there): leave it out with "
            f"--only, or search with experiments.tune --models {model}"
        )
    return path


def merged(values: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    """Section by section; the others win."""
    return {
        section: {**values.get(section, {}), **others.get(section, {})}
        for section in values | others
    }


def draw(study: ModuleType, name: str, store: Store, out: Path) -> list[tables.Row]:
    """Write what the results say."""
    results = store.newest
    rows = tables.compare(results, list(study.VARIANTS), study.REFERENCE)
    question = (study.__doc__ or "").splitlines()[0]
    sheets = {"table": tables.sheet(rows, f"{name}: {question}")}
    for file, make in getattr(study, "SHEETS", {}).items():
        sheets[file] = make(results, name)
    for file, sheet in sheets.items():
        (out / f"{file}.md").write_text(sheet.markdown(), encoding="utf-8")
        (out / f"{file}.tex").write_text(sheet.latex(), encoding="utf-8")
    figure = tables.figure(rows, name)
    (out / "accuracy.png").write_bytes(plots.render(figure))
    svg = plots.themed(plots.render(figure, "svg"))
    pictures = [html.Picture("Accuracy", "Accuracy of each variant, as in the table", svg)]
    shown = list(sheets.values())
    panels = getattr(study, "PANELS", [])
    if along := curves.draw(panels, results, out, name, question):
        shown += along
        png = (out / "curves.png").read_bytes()
        pictures.append(html.Picture("Curves", "Accuracy along each axis, as in the tables", png))
    audited = cards.cards(results, list(study.VARIANTS), figures())
    (out / "cards.md").write_text(cards.markdown(audited, f"{name}: audit cards"), encoding="utf-8")
    page = html.page(name, study.__doc__ or "", shown, pictures, audited)
    (out / "table.html").write_text(page, encoding="utf-8")
    return rows


def main() -> int:
    parser = command.parser("experiments.run", __doc__)
    parser.add_argument("study", choices=names(), metavar="STUDY", help=", ".join(names()))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument(
        "--only", nargs="+", metavar="VARIANT",
        help="train these variants, such as redifu or '*, 10 %%'; tables have all results",
    )  # fmt: skip
    command.add_settings(parser, "all variants")
    parser.add_argument(
        "--tuned", type=Path, metavar="DIR",
        help="settings of each model from DIR/MODEL.toml, as experiments.tune writes them",
    )  # fmt: skip
    parser.add_argument(
        "--lanes", type=int, default=LANES, metavar="N", help="most runs that are one program"
    )
    parser.add_argument(
        "--pool", type=Path, metavar="DIR",
        help="where trained runs are kept and looked for (default: OUT); studies that share it "
        "train a run that several of them need only once",
    )  # fmt: skip
    parser.add_argument("--redraw", action="store_true", help="tables from what is there, no run")
    parser.add_argument("--pack", action="store_true", help="pack the results in the end")
    parser.add_argument("--resume", action="store_true", help="what happens anyway")
    options = parser.parse_args()
    for name in ("seeds", "lanes"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    pool = options.pool or options.out
    start(pool)
    console = Console()
    study = importlib.import_module(f"experiments.studies.{options.study}")
    store = Store(options.out / "results.jsonl")
    if not options.redraw:
        values, assignments = command.settings(options)
        wanted = configs(study, options.seeds, values, assignments, options.tuned, options.only)
        _train(study, wanted, store, options, pool, console)
    if not store.results:
        raise ConfigError(f"{store.path} holds no result to draw")
    rows = draw(study, options.study, store, options.out)
    if options.pack:
        store.pack()
    shown = [tables.HEADER.index(name) for name in SHOWN]
    table = Table(*SHOWN)
    for each in tables.cells(rows):
        table.add_row(*(each[i] for i in shown))
    console.print(table)
    drawn = sorted(each.name for each in options.out.glob("*.*") if ".jsonl" not in each.name)
    console.print(f"{options.out}: {', '.join(drawn)}", soft_wrap=True)


def _train(
    study: ModuleType, wanted: list[tuple[str, Config]], store: Store, options: argparse.Namespace,
    pool: Path, console: Console,
) -> None:  # fmt: skip
    """Every run that has no result yet, or none under all conditions: trained, evaluated, stored.

    Variants that come to the same config, as where a file of settings switches off what a variant
    would, are one run with a result for each.
    """
    runs = pool / "runs"
    conditions = curves.conditions(getattr(study, "PANELS", []))
    configs: dict[str, Config] = {}
    variants: dict[str, list[str]] = {}
    for variant, config in wanted:
        name = digest(config)
        known = store.find(name)
        if known is None or not known.conditions.keys() >= set(conditions):
            configs[name] = config
            variants.setdefault(name, []).append(variant)
        elif store.find(name, variant) is None:
            store.append(dataclasses.replace(known, variant=variant))
    groups, problems = programs(configs, pool, options.lanes), []
    for number, names in enumerate(groups, start=1):
        told = ", ".join(dict.fromkeys(variant for name in names for variant in variants[name]))
        console.print(f"{number}/{len(groups)}  {told}: {len(names)} runs", highlight=False)
        try:
            train({name: configs[name] for name in names}, pool, console)
        except NonFiniteError as error:  # of some; none is dropped unseen
            problems.append(str(error))
        for name in names:
            if trained(runs / name, configs[name]):
                found = result_of(runs / name, variants[name][0], conditions)
                for variant in variants[name]:
                    store.append(dataclasses.replace(found, variant=variant))
        draw(study, options.study, store, options.out)
    if problems:
        raise NonFiniteError("\n".join(problems))


if __name__ == "__main__":
    sys.exit(main())
