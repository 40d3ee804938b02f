"""Which model goes where, how large it is there, how fast, and what it loses: models by formats.

    python -m experiments.export_table --out runs/exports
    python -m experiments.export_table --out runs/exports_mosi --data ../shared/data/mosi \\
        --config experiments/mosi_whole.toml --formats onnx int8 --models redifu bc_lstm single

A run of each model, seed 0, is trained as in `main_table` (and taken from `--pool` if it is there),
exported as `emojax export` does and tried in its runtime on all of the validation split. "int8" is
ONNX with quantised weights. What a format cannot hold says why. Models and formats that are there
already are not exported again.

OUT/table.md and OUT/table.json. Cost on two cores with the embedded corpus: the trainings of
`main_table` for one seed, and half a minute for an export. Expected: differences of 1e-6 but for
int8, the same weighted F1, PyTorch for both ReDiFus alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from emojax.config import MODELS, digest, from_dict, override
from emojax.errors import EmojaxError
from emojax.files import write_atomically
from emojax.serve.export import export_run
from experiments import command
from experiments.programs import start, train
from experiments.sheet import Sheet
from experiments.studies.main_table import VARIANTS

FORMATS: dict[str, tuple[str, str | None]] = {
    "onnx": ("onnx", None), "int8": ("onnx", "int8"), "stablehlo": ("stablehlo", None),
    "torch": ("torch", None), "iree": ("iree", None),
}  # fmt: skip
HEADER = (
    "model", "format", "MB", "largest difference", "weighted F1, %: JAX", "exported", "p50, ms",
    "p95, ms",
)  # fmt: skip
NOTE = (
    "Largest difference of a probability from JAX's over batches of validation conversations; "
    "weighted F1 of one seed on validation; latency of one conversation of median length, on the "
    "CPU that exported."
)


def export(run: Path, format: str, out: Path, console: Console) -> dict[str, Any]:
    """The card of an export, or {"problem": why there is none}."""
    if (out / "card.json").exists():
        return json.loads((out / "card.json").read_text(encoding="utf-8"))
    kind, quantize = FORMATS[format]
    try:
        return export_run(run, kind, out, console, quantize=quantize)
    except EmojaxError as error:
        return {"problem": str(error)}


def sheet(found: Sequence[tuple[str, str, dict[str, Any]]]) -> Sheet:
    """Of (model, format, card)."""
    rows = []
    for model, format, card in found:
        if "problem" in card:
            rows.append([model, format, card["problem"], *["–"] * (len(HEADER) - 3)])
            continue
        scores, times = card["validation_weighted_f1"], card["latency_ms"]
        rows.append([
            model, format, f"{card['bytes'] / 1e6:.2f}", f"{card['largest_difference']:.0e}",
            f"{100 * scores['jax']:.2f}", f"{100 * scores['exported']:.2f}",
            f"{times['p50']:.1f}", f"{times['p95']:.1f}",
        ])  # fmt: skip
    return Sheet("Models in other runtimes", HEADER, rows, NOTE)


def main() -> int:
    parser = command.parser("experiments.export_table", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pool", type=Path, metavar="DIR", help="of trained runs (default: OUT)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    command.add_settings(parser, "all models")
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    pool = options.pool or options.out
    start(pool)
    console = Console()
    values, assignments = command.settings(options)
    found = []
    for model in options.models:
        config = from_dict(override(values, [*VARIANTS[model], *assignments]))
        name = digest(config)
        train({name: config}, pool, console)
        for format in options.formats:
            console.print(f"{model}, {format}", highlight=False)
            card = export(pool / "runs" / name, format, options.out / model / format, console)
            found.append((model, format, card))
        content = [{"model": m, "format": f, **card} for m, f, card in found]
        write_atomically(options.out / "table.json", json.dumps(content, indent=1) + "\n")
        write_atomically(options.out / "table.md", sheet(found).markdown())
    console.print(f"{options.out}: table.md, table.json")


if __name__ == "__main__":
    sys.exit(main())
