"""`emojax config`: what can be set."""

from __future__ import annotations

import argparse
from typing import Any

from emojax.cli.parsing import command


def add(commands: Any) -> None:
    config = command(
        commands, "config", _config, "list every setting with its default and meaning", ""
    )
    config.add_argument("--model", default="redifu", metavar="NAME")
    config.add_argument(
        "--finetune-text", action="store_true", help="the settings of that command instead"
    )


def _config(options: argparse.Namespace) -> int:
    from emojax.config import describe, describe_finetuning

    print(describe_finetuning() if options.finetune_text else describe(options.model))
    return 0
