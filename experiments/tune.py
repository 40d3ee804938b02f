"""Settings of every model, chosen on validation alone, with the same budget for all.

    python -m experiments.tune --out runs/tuning --trials 12
    python -m experiments.tune --out runs/tuning_small --trials 12 \\
        --config experiments/simulated_small.toml --set train.epochs=8 --models redifu bc_lstm
    python -m experiments.tune --out runs/tuning_mosi --trials 24 --folds 6 --set train.epochs=60 \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml
    python -m experiments.run main_table --out runs/main_table --tuned runs/tuning/settings

Each model gets the same number of trials of the same length, the first of them its defaults, the
others drawn by Optuna's tree-structured Parzen estimator from the space below, the same for all but
for settings that a model does not have or that are off by default. A trial's worth is the
validation score of its chosen epoch, with `--folds` the mean over folds of the conversations that
are not for the test; the test split is never read. Trials drawn together are one program.

OUT/settings/MODEL.toml are the settings of the best trial, OUT/trials.csv all trials of all models,
OUT/trials/MODEL.log what Optuna remembers: a search that was cut short goes on, and one asked for
more trials adds to those it has.

Cost on two cores with the embedded corpus, 12 trials of 3 epochs: a minute for models without
context, ten for redifu, half an hour for mult, sdt and redifu_authors, two hours in all.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.config import MODELS, Config, digest, from_dict, override
from emojax.errors import ConfigError, NonFiniteError
from experiments import command
from experiments.programs import notes_of, programs, start, train, trained
from experiments.studies.main_table import VARIANTS

SPACE: dict[str, tuple[float, float, bool]] = {
    # field: least, most, whether on a logarithmic scale
    "train.learning_rate": (3e-4, 1e-2, True),
    "train.weight_decay": (1e-3, 0.5, True),
    "model.dropout": (0.05, 0.6, False),
    "model.input_dropout": (0.05, 0.9, False),
    "model.feature_mix": (0.05, 0.99, False),
    "model.modality_dropout": (0.02, 0.4, False),
    "model.graph_dropout": (0.05, 0.6, False),
}
TOGETHER = 4
"""Trials drawn before any of them is known: fewer would leave devices without work."""


def space(config: Config) -> dict[str, tuple[float, float, bool]]:
    """What of `SPACE` a model has, and has on."""

    def default(field: str) -> float:
        section, name = field.split(".")
        return getattr(getattr(config, section), name, 0.0)

    return {field: bounds for field, bounds in SPACE.items() if default(field)}


def tune(
    model: str,
    changes: Sequence[str],
    values: dict[str, Any],
    trials: int,
    folds: int,
    out: Path,
    console: Console,
) -> Any:
    """Run the trials of a model that are not there yet; returns Optuna's study of it."""
    import optuna
    from optuna.trial import TrialState

    def configs_of(numbers: dict[str, float]) -> list[Config]:
        """Of each fold, or of the one validation split."""
        drawn = [f"{field}={number!r}" for field, number in numbers.items()]
        rules = [f"data.split_rule=fold:{k}/{folds}" for k in range(1, folds + 1)]
        return [
            from_dict(override(values, [*changes, *drawn, *rule]))
            for rule in ([[rule] for rule in rules] or [[]])
        ]

    journal = out / "trials" / f"{model}.log"
    journal.parent.mkdir(parents=True, exist_ok=True)
    default = configs_of({})[0]
    direction = "minimize" if default.train.select == "nll" else "maximize"
    study = optuna.create_study(
        storage=_storage(journal), study_name=model, direction=direction, load_if_exists=True
    )
    # A search that goes on must not draw again what it has drawn.
    study.sampler = optuna.samplers.TPESampler(
        seed=len(study.trials), n_startup_trials=2 * TOGETHER, constant_liar=True
    )
    axes = {
        field: optuna.distributions.FloatDistribution(low, high, log=log)
        for field, (low, high, log) in space(default).items()
    }
    if not study.trials:
        study.enqueue_trial({
            field: getattr(getattr(default, field.split(".")[0]), field.split(".")[1])
            for field in axes
        })  # fmt: skip

    def open_trials() -> list[Any]:
        return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    while (left := trials - sum(trial.state.is_finished() for trial in study.trials)) > 0:
        while len(open_trials()) < min(TOGETHER, left):
            study.ask(axes)
        asked = open_trials()
        configs = {digest(c): c for trial in asked for c in configs_of(trial.params)}
        for names in programs(configs, out, TOGETHER):
            try:
                train({name: configs[name] for name in names}, out, console)
            except NonFiniteError as error:  # a bad trial is a result too
                console.print(str(error), highlight=False)
        for trial in asked:
            worth = [
                notes_of(out / "runs" / digest(each)).best
                for each in configs_of(trial.params)
                if trained(out / "runs" / digest(each), each)
            ]
            if len(worth) == max(folds, 1):
                scores = [best["validation"][default.train.select] for best in worth if best]
                study.tell(trial.number, float(np.mean(scores)))
            else:
                study.tell(trial.number, state=TrialState.FAIL)
    return study


def _storage(journal: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(journal)))


def write_settings(study: Any, model: str, changes: Sequence[str], out: Path) -> Path:
    """The settings of the best trial as a file that `--config` and `--tuned` read."""
    trial = study.best_trial
    drawn = [f"{field}={number:.4g}" for field, number in trial.params.items()]
    sections = override({}, [*changes, *drawn])
    finished = [each for each in study.trials if each.value is not None]
    lines = [
        f"# {model}: trial {trial.number} of {len(finished)} by validation "
        f"({trial.value:.4f}; the defaults had {finished[0].value:.4f}).",
    ]
    for section, fields in sections.items():
        lines += ["", f"[{section}]", *(f"{k} = {json.dumps(v)}" for k, v in fields.items())]
    path = out / "settings" / f"{model}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_trials(out: Path) -> None:
    """A row for every trial of every model that was ever searched here."""
    import optuna

    found = {journal.stem: journal for journal in (out / "trials").glob("*.log")}
    with (out / "trials.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["model", "trial", "state", "validation", *SPACE])
        for model in filter(found.__contains__, MODELS):
            study = optuna.load_study(study_name=model, storage=_storage(found[model]))
            for trial in study.trials:
                value = "" if trial.value is None else f"{trial.value:.5f}"
                numbers = [
                    f"{trial.params[field]:.5g}" if field in trial.params else "" for field in SPACE
                ]
                rows.writerow([model, trial.number, trial.state.name.lower(), value, *numbers])


def main() -> int:
    parser = command.parser("experiments.tune", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=12, help="of each model (default 12)")
    parser.add_argument("--folds", type=int, default=0, metavar="N", help="cross-validate")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    command.add_settings(parser, "all models (default: train.epochs=3)")
    options = parser.parse_args()
    if options.trials < 1:
        parser.error("--trials must be at least 1")
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("tuning needs Optuna: pip install 'emojax[tune]'") from error
    optuna.logging.set_verbosity(logging.WARNING)
    start(options.out)
    console = Console()
    values, assignments = command.settings(options)
    table = Table("model", "trials", "defaults", "best", "settings")
    for model in options.models:
        console.print(f"{model}: {options.trials} trials", highlight=False)
        changes = [*VARIANTS[model], "train.epochs=3", *assignments]
        study = tune(model, changes, values, options.trials, options.folds, options.out, console)
        if all(each.value is None for each in study.trials):
            raise NonFiniteError(f"{model}: no trial came to an end; see {options.out}/runs")
        path = write_settings(study, model, VARIANTS[model], options.out)
        write_trials(options.out)
        finished = [each.value for each in study.trials if each.value is not None]
        table.add_row(
            model, str(len(finished)), f"{finished[0]:.4f}", f"{study.best_value:.4f}", str(path)
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
