"""`emojax train` and `emojax finetune-text`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emojax.cli.parsing import command, one_line, read_config, training_options
from emojax.errors import ConfigError, EmojaxError

if TYPE_CHECKING:
    from emojax.config import Config
    from emojax.train.run import Run

SIGTERM_EXIT = 143


def add(commands: Any) -> None:
    train = command(
        commands, "train", _train, "train a model, or go on with an interrupted training",
        "examples:\n"
        "  emojax train --out runs/demo                         the embedded corpus\n"
        "  emojax train --out runs/iemocap --data features.pkl --set model.width=128\n"
        "  emojax train --out runs/demo --resume                go on after an interruption",
    )  # fmt: skip
    training_options(train)
    train.add_argument(
        "--profile", type=Path, nargs="?", const=Path(), metavar="DIR",
        help="trace a few steps for XProf or Perfetto, into RUN/profile if no DIR is given",
    )  # fmt: skip
    several = train.add_argument_group(
        "several processes", "Start the same command on every host; RUN is a folder they share."
    )
    several.add_argument(
        "--distributed", action="store_true",
        help="join the other processes, found by itself on TPU slices, Slurm and Kubernetes",
    )  # fmt: skip
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens")
    several.add_argument("--processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process", type=int, metavar="I", help="which this is, from 0")
    several.add_argument(
        "--timeout", type=int, default=100, metavar="SECONDS",
        help="after which a process that gives no sign of life counts as lost (default 100)",
    )  # fmt: skip

    tune = command(
        commands, "finetune-text", _finetune_text,
        "fine-tune a text encoder on a corpus's transcripts",
        "Each utterance is read behind the turns before it. Validation chooses the epoch, the\n"
        "test split is scored once, and RUN/encoder is left: a folder that data.text_encoder and\n"
        "Hugging Face's own code read. `emojax config --finetune-text` lists the settings. Needs\n"
        "the extra `text`.\n\n"
        "examples:\n"
        "  emojax finetune-text --out runs/text --data folder_of_meld_csv\n"
        "  emojax finetune-text --out runs/low_rank --data folder_of_meld_csv \\\n"
        "      --set text.lora_rank=16 --set train.learning_rate=1e-3\n"
        "  emojax train --out runs/meld --data folder_of_meld_csv \\\n"
        "      --set data.text_encoder=runs/text/encoder",
    )  # fmt: skip
    training_options(tune)


def _train(options: argparse.Namespace) -> int:
    from emojax.dist import processes

    given = read_config(options)
    explicit = (options.coordinator, options.processes, options.process)
    if not options.distributed and explicit == (None, None, None):
        return _train_here(options, given)
    if not options.distributed and None in explicit:
        raise ConfigError(
            "--coordinator, --processes and --process belong together; --distributed finds out "
            "what is not given"
        )
    if options.timeout < 1:
        raise ConfigError(f"--timeout must be positive, not {options.timeout}")
    processes.start(*explicit, timeout=options.timeout)
    try:
        with processes.losing_nobody():
            return _train_here(options, given)
    except (EmojaxError, OSError) as error:
        print(f"error: process {processes.number()}: {one_line(error)}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    # Not through `exit`, which would wait for processes that are gone.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _train_here(options: argparse.Namespace, given: Config) -> int:
    from rich.console import Console

    from emojax.dist import processes
    from emojax.train.interruption import Interrupted
    from emojax.train.loop import train

    # The first process prepares and writes; the others find what it left, or prepare their own.
    with processes.together():
        run = _open(options, given) if processes.first() else None
    with processes.together():
        run = run or _open_after(options, given)
    folder = None
    if options.profile is not None:
        folder = options.out / "profile" if options.profile == Path() else options.profile
    try:
        progress = train(run, Console(soft_wrap=True), quiet=options.quiet, profile=folder)
    except Interrupted as stop:
        if processes.first():
            print(stop, file=sys.stderr)
        return SIGTERM_EXIT
    if progress.best is not None and not options.quiet and processes.first():
        metric = run.config.train.select
        print(
            f"Best validation {metric}: {progress.best['validation'][metric]:.4f} "
            f"(epoch {progress.best['epoch'] + 1}). Next: emojax evaluate {options.out}"
        )
    return 0


def _open(options: argparse.Namespace, given: Config) -> Run:
    """The run to go on with, or a new one."""
    from emojax.train.run import create_run, open_run, read_run

    if not (options.resume and (options.out / "run.json").exists()):
        return create_run(options.out, given)
    from emojax.config import MeshConfig

    known, _, _ = read_run(options.out)
    mesh = given.mesh if given.mesh != MeshConfig() else None
    others = [each for each in options.overrides if not each.strip().startswith("mesh.")]
    chosen = options.config or others or options.data or options.data_dir or options.skip_bad
    if chosen and dataclasses.replace(known, mesh=given.mesh) != given:
        raise ConfigError(
            f"{options.out} was started with other settings. Resume it without any but those of "
            "the mesh, or start a new run"
        )
    return open_run(options.out, mesh)


def _open_after(options: argparse.Namespace, given: Config) -> Run:
    """The run that the first process has just opened."""
    from emojax.config import MeshConfig
    from emojax.train.run import corpus_of, open_run

    if not options.resume:
        corpus_of(given.data)
    return open_run(options.out, given.mesh if given.mesh != MeshConfig() else None)


def _finetune_text(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.config import FinetuneConfig
    from emojax.train.finetune.loop import finetune
    from emojax.train.finetune.run import create_tuning, open_tuning, read_tuning
    from emojax.train.interruption import Interrupted

    config = read_config(options, FinetuneConfig)
    if options.resume and (options.out / "run.json").exists():
        chosen = options.config or options.overrides or options.data or options.data_dir
        if (chosen or options.skip_bad) and read_tuning(options.out)[0] != config:
            raise ConfigError(
                f"{options.out} was started with other settings. Resume it without any, or start a "
                "new run"
            )
        tuning = open_tuning(options.out)
    else:
        tuning = create_tuning(options.out, config)
    try:
        result = finetune(tuning, Console(soft_wrap=True), quiet=options.quiet)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return SIGTERM_EXIT
    metric = tuning.config.train.select
    print(
        f"Best validation {metric}: {result['best']['validation'][metric]:.4f} (epoch "
        f"{result['best']['epoch'] + 1}); test weighted F1: {result['test']['weighted_f1']:.4f}"
    )
    print(f"Next: emojax train --set data.text_encoder={options.out / 'encoder'}")
    return 0
