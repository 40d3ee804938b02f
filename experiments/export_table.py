"""Which model goes where, how large it is there, how fast, and what it loses: models by formats.

    python -m experiments.export_table --out runs/exports
    python -m experiments.export_table --out experiments/results/mosi/exports --pool runs/exports \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml \\
        --set data.validation_fraction=0.16 --models redifu bc_lstm single

Runs of each model are trained as in `main_table` (and taken from POOL/runs if they are there),
exported to POOL/exports as `emojax export` does and tried in their runtime on all of the validation
split. "int8" is ONNX with quantised weights. What a format cannot hold is a footnote.

OUT/table.json keeps every card, OUT/table.md and OUT/exports.png are drawn from it. Started again,
with other models and their settings too, it adds what is not there yet; models exported with other
settings before are exported anew. `--redraw` only draws. `--retime` measures latencies again, in a
minute: times of a machine that had other work are worth nothing.

Cost on two cores with the embedded corpus: the trainings of `main_table` for one seed, and half a
minute for an export. Expected: differences of 1e-6 but for int8, the same weighted F1, int8 under a
third of ONNX, PyTorch for both ReDiFus alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from emojax.config import MODELS, digest, from_dict, override
from emojax.errors import EmojaxError
from emojax.serve.export import export_run
from emojax.serve.formats import reopen
from emojax.serve.trial import latency
from experiments import command
from experiments.export_cards import FORMATS, Card, Table, draw
from experiments.programs import start, train
from experiments.studies.main_table import VARIANTS


def export(run: Path, format: str, out: Path, console: Console) -> Card:
    """The card of an export, or {"problem": why there is none}."""
    if (out / "card.json").exists():
        return json.loads((out / "card.json").read_text(encoding="utf-8"))
    kind, quantize = FORMATS[format]
    try:
        return export_run(run, kind, out, console, quantize=quantize)
    except EmojaxError as error:
        return {"problem": str(error)}


def retime(table: Table, pool: Path) -> None:
    """Measure latencies again, of exports that are still in the pool."""
    for (model, format, seed), card in list(table.cards.items()):
        folder = pool / "exports" / card["run"] / format
        if (folder / "card.json").exists():
            with np.load(folder / "example.npz") as example:
                arrays = {name: example[name] for name in example if name != "probability"}
            again = latency(reopen(FORMATS[format][0], folder), arrays)
            table.add(model, format, seed, card["run"], card | {"latency_ms": again})


def main() -> int:
    parser = command.parser("experiments.export_table", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--pool", type=Path, metavar="DIR", help="of trained runs and exports (default: OUT)"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="runs of each model (1)")
    parser.add_argument("--redraw", action="store_true", help="train and export nothing")
    parser.add_argument("--retime", action="store_true", help="measure latencies again, no more")
    command.add_settings(parser, "all models")
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    pool, console = options.pool or options.out, Console()
    table = Table(options.out / "table.json")
    if options.retime:
        retime(table, pool)
    elif not options.redraw:
        start(pool)
        values, assignments = command.settings(options)
        for model in options.models:
            settings = [*VARIANTS[model], *assignments]
            configs = [
                from_dict(override(values, [*settings, f"train.seed={seed}"]))
                for seed in range(options.seeds)
            ]
            names = list(map(digest, configs))
            train(dict(zip(names, configs, strict=True)), pool, console)
            for format in options.formats:
                for seed, name in enumerate(names):
                    if table.has(model, format, seed, name):
                        continue
                    console.print(f"{model}, {format}, seed {seed}", highlight=False)
                    folder = pool / "exports" / name / format
                    card = export(pool / "runs" / name, format, folder, console)
                    table.add(model, format, seed, name, card)
            draw(table, options.out)
    if not table.cards:
        console.print(f"{options.out}: nothing was exported yet")
        return
    draw(table, options.out)
    console.print(f"{options.out}: table.md, table.json, exports.png")


if __name__ == "__main__":
    sys.exit(main())
