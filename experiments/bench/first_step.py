"""Seconds from the start of the process to the end of the first training step of the demo.

`emojax train` is started twice with an empty home folder: the first start prepares the embedded
corpus and compiles, the second finds both done. What is timed is what a user waits for: Python,
imports, corpus, compilation and the step itself.

Cost: about a minute on two idle cores.
Aim: the first start within 20 s, the second in less. Measured (README): 19 s and 5 s.

    python -m experiments.bench.first_step
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments import command


def start(home: Path, run: str) -> float:
    """Seconds until a fresh process has done the first step of a run in `home`."""
    # The child imports jax before the command line can say where compiled programs are kept.
    environment = os.environ | {
        "HOME": str(home),
        "JAX_COMPILATION_CACHE_DIR": str(home / ".cache/emojax/xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    command = [sys.executable, "-m", "experiments.bench.first_step", "--child", str(home / run)]
    began = time.time()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.splitlines()[-1]) - began


def train_one_step(folder: str) -> None:
    """`emojax train`, ended by printing the time as soon as one step is done."""
    import jax

    from emojax import cli
    from emojax.train import loop

    make = loop.make_train_step

    class OneStep:
        def __init__(self, *arguments: Any):
            self.step = make(*arguments)
            self.lower = self.step.lower

        def __call__(self, *given: Any) -> None:
            jax.block_until_ready(self.step(*given))
            print(time.time(), flush=True)
            os._exit(0)

    loop.make_train_step = OneStep
    cli.main(["train", "--out", folder])


def main() -> None:
    parser = command.parser("experiments.bench.first_step", __doc__)
    parser.add_argument("--child", metavar="RUN", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        train_one_step(arguments.child)
        return
    with tempfile.TemporaryDirectory() as home:
        seconds = {name: start(Path(home), name) for name in ("first", "second")}
    print(json.dumps({name: round(value, 1) for name, value in seconds.items()}))


if __name__ == "__main__":
    main()
