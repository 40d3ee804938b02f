"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from emojax import __version__
from emojax.cli import (
    ahead,
    corpora,
    evaluating,
    exporting,
    recordings,
    settings,
    training,
)
from emojax.cli.parsing import one_line
from emojax.cli.training import SIGTERM_EXIT
from emojax.errors import EmojaxError

__all__ = ["SIGTERM_EXIT", "main"]

# Whatever takes long to import is imported by the command that needs it: --help answers at once.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0, 1 for an error, 2 for wrong usage)."""
    options = _parser().parse_args(arguments)
    quiet = _silence() if getattr(options, "quiet", False) else contextlib.nullcontext()
    try:
        _prepare_process()
        with _sigterm_exits(), quiet:
            status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output went away
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 1
    except (EmojaxError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Who stops us gets the same status at any moment; training saves itself first."""
    try:
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(SIGTERM_EXIT))
    except ValueError:  # not the main thread, which alone may handle signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard output, whoever writes there: progress bars of any depth included."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _prepare_process() -> None:
    from absl import logging

    # What Orbax and TFDS log is their own business; what matters comes as a warning or an error.
    logging.set_verbosity(logging.ERROR)
    warnings.showwarning = lambda message, *_: print(
        f"warning: {one_line(message)}", file=sys.stderr
    )
    # Compiled programs are kept, so that the second start is quicker than the first.
    cache = Path("~/.cache/emojax/xla").expanduser()
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="emojax",
        description="Multimodal emotion recognition in conversation: train, evaluate, predict.",
        epilog="A first run: emojax train --out runs/demo && emojax evaluate runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"emojax {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (training, evaluating, exporting, recordings, corpora, ahead, settings):
        group.add(commands)
    return parser
