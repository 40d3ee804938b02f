"""Does a space that contrast has made help fusion that has few labels?

    python -m experiments.shared_space --out runs/shared_space
    python -m experiments.shared_space --out runs/shared_space --models redifu --seeds 3

First the spaces (`shared_space`, the embedded corpus): `symmetric` sees a third of the training
conversations, 3000, and no label of them; `supervised` sees what fusion sees, a hundredth of all
or three, with labels. Then models of fusion are trained on these few conversations, from random
parameters or from the space of the same seed (`train.initialise_from`): its input layers, and its
perceptrons where the model has such. Epochs are chosen on validation, settings are the default.

OUT/spaces.md has how well modalities find one another, OUT/fusion.md test weighted F1 and the
difference that the start makes, paired by seed. What was interrupted goes on where it stopped.

Cost, two models and ten seeds: some 40 minutes of one core. Expected (measured so,
`experiments/results/simulated/shared_space`): modalities share no more than an emotion, so text and
another find one another about twice as often as by chance, and a like emotion as well; from the
symmetric space fusion with one hundredth of the labels gains .7 to 1 point of weighted F1, with
three of them less than half of that, and from the supervised one next to nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from emojax.config import Config, digest, from_dict, override
from emojax.files import write_atomically
from experiments import command
from experiments.programs import start
from experiments.seeds import reports
from experiments.sheet import Sheet, spread

SHARES = (0.01, 0.03)
"""Of the training conversations, those whose labels fusion sees."""
UNLABELLED = 1 / 3
"""Of them, those that the symmetric space sees."""
MODELS = ("early_fusion", "late_fusion")
STARTS = ("random", "symmetric", "supervised")
MOST_EPOCHS = 50
PAIRS = (("text", "audio"), ("text", "visual"), ("audio", "visual"))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is trained: configs by what they are.

    Attributes:
      spaces: by (contrast, share, seed).
      fusion: by (model, start, share, seed).
    """

    spaces: dict[tuple[str, float, int], Config]
    fusion: dict[tuple[str, str, float, int], Config]


def plan(
    values: dict[str, Any], settings: Sequence[str], models: Sequence[str], seeds: int, out: Path
) -> Plan:
    """Every run; those of fusion name the folders that `reports` leaves spaces in."""

    def config(share: float, seed: int, *more: str) -> Config:
        epochs = min(MOST_EPOCHS, round(5 / share)) if share in SHARES else 5
        given = [f"data.train_share={share}", f"train.epochs={epochs}", f"train.seed={seed}", *more]
        return from_dict(override(values, [*given, *settings]))

    spaces = {
        (contrast, share, seed): config(
            share, seed, "model.name=shared_space", f"model.contrast={contrast}"
        )
        for contrast, shares in (("symmetric", (UNLABELLED,)), ("supervised", SHARES))
        for share in shares
        for seed in range(seeds)
    }
    fusion = {}
    for model in models:
        for begin in STARTS:
            for share in SHARES:
                for seed in range(seeds):
                    more = [f"model.name={model}"]
                    if begin != "random":
                        seen = UNLABELLED if begin == "symmetric" else share
                        folder = out / "runs" / digest(spaces[begin, seen, seed])
                        more.append(f"train.initialise_from={folder}")
                    fusion[model, begin, share, seed] = config(share, seed, *more)
    return Plan(spaces, fusion)


def trained(configs: dict[Any, Config], out: Path, console: Console) -> dict[Any, dict[str, Any]]:
    """Reports by the same keys."""
    named = {digest(config): config for config in configs.values()}
    found = dict(zip(named, reports(named, out, test=True, console=console), strict=True))
    return {key: found[digest(config)] for key, config in configs.items()}


def of_spaces(found: dict[tuple[str, float, int], dict[str, Any]]) -> Sheet:
    rows = []
    for contrast, share in dict.fromkeys(key[:2] for key in found):
        each = [report for key, report in found.items() if key[:2] == (contrast, share)]
        cells = [spread([100 * r["splits"]["test"]["weighted_f1"]["value"] for r in each])]
        for query, answer in PAIRS:
            pairs = [
                next(p for p in r["retrieval"] if (p["query"], p["answer"]) == (query, answer))
                for r in each
            ]
            recall = spread([100 * p["recall"]["10"] for p in pairs])
            alike = spread([100 * p["same_label"]["10"] for p in pairs])
            chance = np.mean([100 * p["chance"]["10"] for p in pairs])
            guess = np.mean([100 * p["same_label_chance"] for p in pairs])
            cells += [f"{recall} (chance {chance:.1f})", f"{alike} (chance {guess:.1f})"]
        rows.append([f"{contrast}, {100 * share:.0f} % of the conversations", *cells])
    header = ["space", "weighted F1 of a linear reading, %"]
    for query, answer in PAIRS:
        header += [f"{query} finds {answer}: recall@10, %", "same label among 10, %"]
    note = "Test split, among all utterances that have both; mean ± sample deviation over seeds."
    return Sheet("Spaces", header, rows, note)


def of_fusion(found: dict[tuple[str, str, float, int], dict[str, Any]]) -> Sheet:
    def scores(model: str, begin: str, share: float) -> np.ndarray:
        each = {key[3]: r for key, r in found.items() if key[:3] == (model, begin, share)}
        values = [each[seed]["splits"]["test"]["weighted_f1"]["value"] for seed in sorted(each)]
        return 100 * np.array(values)

    rows = []
    for model, begin in dict.fromkeys(key[:2] for key in found):
        row = [f"{model}, {begin} start"]
        for share in SHARES:
            mine = scores(model, begin, share)
            row.append(spread(mine))
            row.append(
                "–"
                if begin == "random"
                else spread(mine - scores(model, "random", share), sign="+")
            )
        rows.append(row)
    header = ["model and start"]
    for share in SHARES:
        header += [f"{100 * share:g} % of the labels", "over random"]
    note = (
        "Test weighted F1, %, of the epochs that validation chose, and its difference to that of "
        "the same seed from random parameters; mean ± sample deviation over seeds."
    )
    return Sheet("Fusion with few labels", header, rows, note)


def main() -> int:
    parser = command.parser("experiments.shared_space", __doc__)
    command.add_settings(parser, "all runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    start(options.out)
    console = Console()
    values, settings = command.settings(options)
    wanted = plan(values, settings, options.models, options.seeds, options.out)
    sheets = {"spaces": of_spaces(trained(wanted.spaces, options.out, console))}
    sheets["fusion"] = of_fusion(trained(wanted.fusion, options.out, console))
    for name, sheet in sheets.items():
        write_atomically(options.out / f"{name}.md", sheet.markdown())
        print(sheet.markdown())


if __name__ == "__main__":
    sys.exit(main())
