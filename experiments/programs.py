"""Which runs of a study are one program, and their training."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import jax
from rich.console import Console

from emojax.config import Config
from emojax.config.swept import structure
from emojax.train.checkpoint import Checkpoints
from emojax.train.progress import Progress
from emojax.train.run import LAST, create_run, open_run
from emojax.train.sweep import sweep

LANES = 16
"""Most runs that are one program, unless it is told otherwise."""


def start(pool: Path) -> None:
    """Settle what a process that trains studies does with its devices; before it uses any."""
    # A run on each core: small operations are no faster on several.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", cores)
    # The same program is met again at every restart, and by every search's next trials.
    jax.config.update("jax_compilation_cache_dir", str((pool / "compiled").absolute()))


def programs(configs: Mapping[str, Config], pool: Path, most: int) -> list[list[str]]:
    """Groups of runs that can be lanes of one program, at most so many each.

    A sweep that was cut short is a group as it was. Runs that are trained already are groups too,
    as training them again takes no time.

    Args:
      configs: by the name of the run.
      pool: folder of runs, and of the sweeps that train them.
    """
    groups, left = [], dict(configs)
    for known in sorted((pool / "sweeps").glob("*/sweep.json")):
        with contextlib.suppress(ValueError, KeyError, OSError):  # then it is no use to anybody
            names = json.loads(known.read_text(encoding="utf-8"))["lanes"]
            if names and all(name in left for name in names):
                groups.append(names)
                for name in names:
                    del left[name]
    alike: dict[str, list[str]] = {}
    for name, config in left.items():
        key = structure(config)
        if trained(pool / "runs" / name, config):
            key = "trained"
        alike.setdefault(key, []).append(name)
    for names in alike.values():
        groups += [names[start : start + most] for start in range(0, len(names), most)]
    return groups


def trained(folder: Path, config: Config) -> bool:
    """Whether a run's training is finished."""
    return (folder / LAST).is_dir() and notes_of(folder).finished(config.train)


def notes_of(folder: Path) -> Progress:
    """What a run's newest checkpoint knows of it."""
    with contextlib.closing(Checkpoints(folder / LAST, keep=None)) as series:
        return Progress(**(series.notes() or {"iterator": {}}))


def train(configs: Mapping[str, Config], pool: Path, console: Console) -> None:
    """Train a group of `programs`, or go on with it.

    Raises:
      EmojaxError: see `train.sweep.sweep`.
    """
    folders = {name: pool / "runs" / name for name in configs}
    if all(trained(folders[name], config) for name, config in configs.items()):
        return
    runs = [
        open_run(folders[name])
        if (folders[name] / "run.json").exists()
        else create_run(folders[name], config)
        for name, config in configs.items()
    ]
    name = hashlib.sha256(" ".join(configs).encode()).hexdigest()[:16]
    sweep(runs, pool / "sweeps" / name, console)
