"""How fast the encoders of raw media are, beside the libraries that others use.

    python -m experiments.bench.encoders text
    python -m experiments.bench.encoders --json

Each part measures in one process, one contender after the other in every round, so that a machine
that slows down slows all of them; the median of the rounds counts, and ratios say more than
figures. A contender whose library is not installed is left out. Parts:

  text   utterances per second and one step of fine-tuning, beside transformers on torch: a network
         of MiniLM's sizes, random weights, word pieces of MELD's lengths (extra `bench`)
  audio  times real time of log-mel, prosody and the whole encoder, beside librosa and openSMILE
  vision frames per second of MobileNetV2 and VGG-16, beside transformers and PyTorch, and depthwise
         convolutions beside XLA's own; minutes, most of them VGG's
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments import command

PARTS = {
    "text": "experiments.bench.encoders_text",
    "audio": "experiments.bench.encoders_audio",
    "vision": "experiments.bench.encoders_vision",
}
"""Modules with `measure(rounds)`, which gives rows of what, contender, seconds, rate and unit."""


def show(rows: list[dict[str, Any]]) -> Table:
    """Of each contender its rate, and its time over that of emojax."""
    table = Table("what", "contender", "seconds", "rate", "time over emojax's")
    ours = {row["what"]: row["seconds"] for row in rows if row["contender"] == "emojax"}
    for row in rows:
        table.add_row(
            row["what"], row["contender"], f"{row['seconds']:.3f}",
            f"{row['rate']:,.0f} {row['unit']}", f"{row['seconds'] / ours[row['what']]:.2f}",
        )  # fmt: skip
    return table


def main() -> int:
    parser = command.parser("experiments.bench.encoders", __doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown or options.rounds < 1:
        parser.error(f"parts are {', '.join(PARTS)}, and rounds 1 or more")
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    rows = []
    for name in options.parts or PARTS:
        rows += importlib.import_module(PARTS[name]).measure(options.rounds)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(show(rows))


if __name__ == "__main__":
    sys.exit(main())
