"""A sweep in a process of its own: FOLDER CORPUS."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
from rich.console import Console

from emojax.train.interruption import Interrupted
from emojax.train.run import create_run, open_run
from emojax.train.sweep import sweep
from tests.train.runs import VARIANTS, config

INTERRUPTED = 75
CHANGES = [{}, {"train.learning_rate": 0.003}, {"model.dropout": 0.4}]


def main(folder: Path, corpus: Path) -> int:
    jax.config.update("jax_num_cpu_devices", 2)
    runs = []
    for n, changes in enumerate(CHANGES):
        lane = folder / f"lane_{n}"
        if (lane / "run.json").exists():
            runs.append(open_run(lane))
        else:
            chosen = config(
                corpus, VARIANTS["bare"] | {"train.seed": n, "train.epochs": 4} | changes
            )
            runs.append(create_run(lane, chosen))
    try:
        sweep(runs, folder / "sweep", Console(), quiet=True)
    except Interrupted:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
