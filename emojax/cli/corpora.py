"""`emojax data prepare` and `emojax data inspect`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from emojax.cli.parsing import command


def add(commands: Any) -> None:
    data = commands.add_parser("data", help="prepare and inspect corpora").add_subparsers(
        required=True, metavar="COMMAND"
    )
    prepare = command(data, "prepare", _data_prepare, "read, check, split and store a corpus", "")
    prepare.add_argument(
        "source", metavar="SOURCE", help='a feature file or folder, or "simulated"'
    )
    prepare.add_argument("--data-dir", default="~/.cache/emojax", metavar="DIR")
    prepare.add_argument("--split-rule", default="official", metavar="RULE")
    prepare.add_argument("--validation-fraction", type=float, metavar="SHARE")
    prepare.add_argument(
        "--text-encoder", default="", metavar="NAME",
        help='make text features from the transcripts: "minilm", or a folder of a BERT or RoBERTa',
    )  # fmt: skip
    prepare.add_argument("--skip-bad", action="store_true", help="set bad conversations aside")
    inspect = command(data, "inspect", _data_inspect, "show what a corpus holds", "")
    inspect.add_argument("source", metavar="PATH", help="as for prepare, or a prepared folder")
    inspect.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _data_prepare(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.data.inspect import inspect, render
    from emojax.data.prepare import prepare

    corpus = prepare(
        options.source, options.data_dir, skip_bad=options.skip_bad,
        split_rule=options.split_rule, validation_fraction=options.validation_fraction,
        text_encoder=options.text_encoder,
    )  # fmt: skip
    Console().print(render(inspect(corpus)))
    print(f"Prepared: {corpus.path}")
    return 0


def _data_inspect(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.data.inspect import inspect, render

    summary = inspect(options.source)
    if options.json:
        print(json.dumps(summary, indent=2))
    else:
        Console().print(render(summary))
    return 0
