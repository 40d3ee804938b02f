"""`python -m tests.train.disturb MOMENT ARGUMENTS`: the command line, and something happens to it.

MOMENT is ACTION@PLACE or ACTION@PLACE#N, where N counts the visits of the place from 1:

  kill    the process dies as from `kill -9`
  term    SIGTERM arrives
  hold    "ready" is said on stderr and two seconds pass, so that somebody else can send a signal
  fullN   from now on no file may grow beyond N bytes, as on a full disk
  slow    the thread sleeps for a while, then goes on

Several moments are joined by commas. Nothing of emojax is replaced: places that are functions are
wrapped, places that are files are watched.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

UNNAMED = r"\d+\.orbax-checkpoint-tmp"
FILES = {
    # A checkpoint is begun, its arrays are complete, it is about to get its name, and an old one
    # is about to go.
    "last begun": rf"os.mkdir .*/checkpoints/last/{UNNAMED}",
    "last inside": rf"os.rename .*/checkpoints/last/{UNNAMED}/tree.*",
    "last named": rf"os.rename .*/checkpoints/last/{UNNAMED}",
    "best named": rf"os.rename .*/checkpoints/best/{UNNAMED}",
    "old removed": r"shutil.rmtree .*/checkpoints/last/\d+",
}


def act(action: str) -> None:
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    elif action == "hold":
        print("ready", file=sys.stderr, flush=True)
        time.sleep(2)
    elif action.startswith("full"):
        size = int(action.removeprefix("full"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    elif action == "slow":
        time.sleep(1.5)
    else:
        raise ValueError(action)


def on_visit(action: str, number: int) -> Callable[[], None]:
    visits = 0

    def visit() -> None:
        nonlocal visits
        visits += 1
        if visits == number:
            act(action)

    return visit


def watch_files(pattern: str, visit: Callable[[], None]) -> None:
    def hook(event: str, arguments: tuple) -> None:
        files = event.startswith(("os.", "shutil."))
        if files and re.fullmatch(pattern, f"{event} {arguments[0]}"):
            visit()

    sys.addaudithook(hook)


def watch_for(folder: Path, visit: Callable[[], None]) -> None:
    """Visits when the first checkpoint of the folder is complete."""

    def watch() -> None:
        while not any(path.name.isdecimal() for path in folder.glob("*")):
            time.sleep(0.001)
        visit()

    threading.Thread(target=watch, daemon=True).start()


def wrap(owner: object, name: str, visit: Callable[[], None], *, when: Callable = lambda *_: True):
    function = getattr(owner, name)

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        if when(*arguments):
            visit()
        return function(*arguments, **options)

    setattr(owner, name, wrapped)


def prepare(moment: str) -> None:
    from emojax.train import loop, run

    action, _, rest = moment.partition("@")
    place, _, number = rest.partition("#")
    visit = on_visit(action, int(number or 1))
    if place in FILES:
        watch_files(FILES[place], visit)
    elif place == "first complete":
        watch_for(Path(sys.argv[sys.argv.index("--out") + 1]) / "checkpoints" / "last", visit)
    elif place == "preparation":
        wrap(run, "create_run", visit)
    elif place == "start":
        wrap(loop, "make_initial_state", visit)
    elif place == "step":
        wrap(loop._Loop, "account", visit)
    elif place == "evaluation":
        wrap(loop, "predict_split", visit)
    elif place == "between best and last":
        wrap(
            loop.Checkpoints, "save", visit,
            when=lambda series, *_: series.folder.name == "last",
        )  # fmt: skip
    else:
        raise ValueError(place)


if __name__ == "__main__":
    from emojax.cli import main

    for moment in sys.argv[1].split(","):
        prepare(moment)
    sys.exit(main(sys.argv[2:]))
