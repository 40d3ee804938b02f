"""What the programs of this folder share on their command lines."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emojax.config import load
from emojax.errors import EmojaxError
from emojax.train.interruption import Interrupted


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Of a module whose docstring is its manual."""
    return argparse.ArgumentParser(
        prog=f"python -m {name}", description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_settings(to: argparse.ArgumentParser, of: str) -> None:
    """The options that say what is trained, read by `settings`."""
    to.add_argument(
        "--data", metavar="SOURCE", help="a feature file or folder; the config's if left out"
    )
    to.add_argument("--config", type=Path, metavar="FILE", help=f"a TOML file of settings of {of}")
    to.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE",
        help=f"a setting of {of}, whatever else says otherwise",
    )  # fmt: skip


def settings(options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """The file's values, and the assignments that win over everything.

    Raises:
      ConfigError: the file cannot be read.
    """
    source = [f"data.source={options.data}"] if options.data else []
    return load(options.config) if options.config else {}, [*source, *options.overrides]


def status(work: Callable[[], None]) -> int:
    """Do it and say what went wrong in a line; the exit status that the process ends with."""
    try:
        work()
    except Interrupted:
        print("stopped; the same command goes on where it was", file=sys.stderr)
        return 128 + signal.SIGTERM
    except (EmojaxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
