"""Runs of the command line in processes of their own, and what they leave behind."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from emojax.config import Config, from_dict, override
from emojax.train.checkpoint import Checkpoints
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.run import Run, open_run
from emojax.train.step import TrainState, make_initial_state
from tests.conftest import CACHE

ROOT = Path(__file__).parent.parent.parent
TINY = {
    "model.width": 16, "model.heads": 2, "model.graph_heads": 2, "model.encoder_layers": 0,
    "model.delta": "false", "model.graph_layers": 1, "model.window": 2, "model.diffusion_steps": 1,
    "data.buckets": "[32]", "data.batch_utterances": 64, "train.epochs": 3,
    "train.learning_rate": 0.01,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    # Every epoch is the best so far, whatever the model makes of the corpus.
    "averaged": {"train.ema_decay": 0.9, "train.checkpoint_every": 4, "train.select_last": "true"},
    # Little to compile, for tests that start many processes.
    "bare": {
        "train.ema_decay": 0.9,
        "train.checkpoint_every": 4,
        "train.select_last": "true",
        "model.graph_layers": 0,
        "model.diffusion_steps": 0,
        "model.chain": "false",
    },
}
_fresh: dict[Config, TrainState] = {}
TIMINGS = ("seconds", "conversations_per_second")


def settings(corpus: Path, changes: dict[str, Any] | None = None) -> list[str]:
    """Arguments of `emojax train` for a tiny model on that corpus."""
    chosen = TINY | (changes or {})
    overrides = [part for name in chosen for part in ("--set", f"{name}={chosen[name]}")]
    return ["--data", str(corpus), *overrides]


def config(corpus: Path, changes: dict[str, Any] | None = None) -> Config:
    """The same as a `Config`."""
    chosen = TINY | {"data.source": str(corpus)} | (changes or {})
    return from_dict(override({}, [f"{name}={value}" for name, value in chosen.items()]))


def environment(**changes: str) -> dict[str, str]:
    """Variables for a process: ours, with the tests' compilation cache.

    The cache is only read: JAX writes an entry bit by bit, so a process that is killed would leave
    part of one for ever, and a process beside it would read part of one.
    """
    cache = {"JAX_COMPILATION_CACHE_DIR": str(CACHE)}
    cache["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "1000"
    return {**os.environ, **cache, "PYTHONPATH": str(ROOT), **changes}


def start(
    *arguments: Any, module: str = "emojax", variables: dict[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """`python -m MODULE ARGUMENTS`, under way."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        command, env=environment(**(variables or {})), text=True, **(pipes | options)
    )


def cli(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    """`emojax ARGUMENTS` in a process of its own."""
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def cli_until(moment: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    """The same, but something happens to the process at a moment; see `tests.train.disturb`."""
    return cli(moment, *arguments, module="tests.train.disturb")


def train_state(run: Run) -> TrainState:
    """A fresh state of the run: the shapes, types and places of everything it trains."""
    if run.config not in _fresh:
        training = run.batches("train", training=True)
        optimiser = build_optimiser(run.config.train, build_schedule(run.config.train, [1]))
        batch = next(training.one_epoch()).batch
        initial_state = make_initial_state(run.model, optimiser, run.config.train)
        key = jax.random.key(run.config.train.seed)
        _fresh[run.config] = initial_state(key, batch, run.collection())
    return _fresh[run.config]


def outcome(folder: Path) -> dict[str, Any]:
    """Everything a run leaves that must not depend on what happened to it on the way."""
    run = open_run(folder)
    like = train_state(run)
    last, best = Checkpoints(run.last, keep=None), Checkpoints(run.best, keep=None)
    step, state, notes = last.restore(like)
    best_step, variables, best_notes = best.restore(like.variables())
    last.close()
    best.close()
    for volatile in ("seconds", "peak_memory", "log_size"):
        del notes[volatile]
    return {
        "steps": (step, best_step),
        "state": bits(state),
        "best": bits(variables),
        "notes": timeless(notes),
        "best_notes": timeless(best_notes),
        "log": [timeless(json.loads(line)) for line in log_lines(folder)],
        "scalars": {k: v for k, v in scalars(folder).items() if k[0] not in TIMINGS},
    }


def log_lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def events(file: Path) -> Iterator[event_pb2.Event]:
    """The records of a TensorBoard event file, read as the format says: length, checksum, bytes,
    checksum. The last may be cut short where a process was killed."""
    content = file.read_bytes()
    while len(content) >= 12:
        size, check = struct.unpack("<QI", content[:12])
        assert check == masked_crc32c(content[:8])
        record, rest = content[12 : 12 + size], content[12 + size :]
        if len(rest) < 4:
            return
        assert struct.unpack("<I", rest[:4]) == (masked_crc32c(record),)
        yield event_pb2.Event.FromString(record)
        content = rest[4:]


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """(name, step) -> value as TensorBoard shows them: a restart hides what came after it."""
    shown: dict[tuple[str, int], float] = {}
    for file in sorted((folder / "tensorboard").iterdir()):
        for event in events(file):
            if event.session_log.status == event_pb2.SessionLog.START:
                shown = {k: v for k, v in shown.items() if k[1] < event.step}
            for value in event.summary.value:
                shown[value.tag, event.step] = value.simple_value
    return shown


def bits(tree: Any) -> dict[str, tuple[str, bytes]]:
    """Type and bytes of every array of a tree, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): (str(x.dtype), x.tobytes()) for path, x in leaves}


def timeless(value: Any) -> Any:
    """A record without how long things took."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMINGS}
    if isinstance(value, list):
        return [timeless(v) for v in value]
    return value


def complete(series: Path) -> list[int]:
    """Steps of the checkpoints in a folder."""
    return sorted(int(path.name) for path in series.glob("*") if path.name.isdecimal())
