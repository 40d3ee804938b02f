"""What commands have in common: how they are declared, and settings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emojax.errors import ConfigError


def command(
    commands: Any, name: str, run: Any, summary: str, details: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def training_options(command: argparse.ArgumentParser) -> None:
    """What every training is told, whatever it trains."""
    command.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run's folder")
    settings_options(command)
    command.add_argument("--data", metavar="SOURCE", help="short for --set data.source=SOURCE")
    command.add_argument("--data-dir", metavar="DIR", help="short for --set data.data_dir=DIR")
    command.add_argument(
        "--skip-bad", action="store_true",
        help="set conversations with bad values aside instead of stopping at the first",
    )  # fmt: skip
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    command.add_argument("--quiet", action="store_true", help="print nothing but errors")


def settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file of settings")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.FIELD=VALUE",
        dest="overrides",
        help="one setting; may be repeated (`emojax config` lists them all)",
    )


def read_config(options: argparse.Namespace, kind: Any = None) -> Any:
    """Args: kind: of config; None is that of training."""
    from emojax.config import Config, from_dict, load, override

    values = load(options.config) if options.config else {}
    values = override(values, options.overrides)
    short = {
        "source": options.data, "data_dir": getattr(options, "data_dir", None),
        "skip_bad": getattr(options, "skip_bad", False),
    }  # fmt: skip
    data = values.setdefault("data", {})
    if isinstance(data, dict):  # else `from_dict` says what is wrong
        data |= {name: value for name, value in short.items() if value not in (None, False)}
    return from_dict(values, kind or Config)


def integers(option: str, text: str, count: int) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or min(numbers) < 1:
        raise ConfigError(f"{option} must be {count} positive numbers, not {text!r}")
    return numbers


def one_line(message: object) -> str:
    """A message without line breaks, nor anything else that could steer a terminal."""
    words = " ".join(str(message).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)
