"""MELD's words through a fine-tuned text encoder, and what its pretraining is worth.

    python -m experiments.meld_text --data ../shared/data/meld --out runs/meld_text
    python -m experiments.meld_text --out runs/meld_text --redraw

Settings are chosen on the validation split alone: every variant of `experiments.meld_plan` with one
seed, then the best of them with a second, by the mean of both. The chosen one is trained with five
seeds, whose utterance features (`features-SEED.npz`, fp16) and encoders are what the second stage
reads (`experiments.meld_context`). Then the curve: the chosen settings on shares of the training
conversations, beside the same encoder from random weights, whose own rate is chosen on validation
likewise. Small shares get more epochs; the epoch is always chosen on the whole validation split.

A line of OUT/results.jsonl for each fine-tuning, which is never done twice: started again, the
program goes on where it was stopped. `--workers` of them share a device; `--seconds` ends it in
time. Drawn from the lines alone: tables (`table.md`) and the curve (`curve.png`).

Cost: the chosen settings take about an hour of CPU time, half as much on two idle cores; on an H100
two minutes beside seven others. Expected: test weighted F1 of 60.8 ± .8, and 95 % of the labelled
conversations saved (README).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emojax.config.finetune import FinetuneConfig
from experiments import command
from experiments.meld_plan import BASE, Line, Plan, Results, name_of

SEARCH_SHARE = 0.5
"""Of the seconds there are, how many the choice of settings may take."""


def work(plan: Plan, out: Path, folder: Path, *, until: float, search_until: float) -> None:
    """Do what nobody does yet, stage by stage, as long as there is time.

    Args:
      folder: of the runs.
      until: of `time.time()`; the choice of settings ends at `search_until`.
    """
    results = Results(out / "results.jsonl")
    stages: list[tuple[Callable[[dict[str, Line]], list[FinetuneConfig]], float, bool]] = [
        (lambda found: plan.first(), search_until, False),
        (plan.second, search_until, False),
        (plan.final, until, True),
        (plan.curve, until, False),
    ]
    for stage, end, featured in stages:
        jobs = stage(results.read())
        for config in jobs:
            if time.time() < end:
                _do(config, results, out, folder, featured=featured)
        # What others are at belongs to what the next stage is chosen from.
        wanted = {name_of(config) for config in jobs}
        while time.time() < end and not wanted <= results.read().keys():
            time.sleep(0.5)


def _do(
    config: FinetuneConfig, results: Results, out: Path, folder: Path, *, featured: bool
) -> None:
    name = name_of(config)
    run = folder / name
    if name not in results.read() and _claim(folder, name):
        began = time.time()
        try:
            line = {"name": name, **_finetuned(config, run)}
            line["wall_seconds"] = time.time() - began
        except Exception as error:  # the other fine-tunings go on; the line says what went wrong
            traceback.print_exc()
            line = {"name": name, "error": f"{type(error).__name__}: {error}"}
        results.add(line)
    if featured and (run / "result.json").exists():
        _keep_features(config, run, out)


def _finetuned(config: FinetuneConfig, run: Path) -> Line:
    from rich.console import Console

    from emojax.train.finetune.loop import finetune
    from emojax.train.finetune.run import create_tuning

    if not (run / "result.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        finetune(create_tuning(run, config), Console(), volatile=True)
    return json.loads((run / "result.json").read_text(encoding="utf-8"))


def _claim(folder: Path, name: str) -> bool:
    """Whether it is ours to do; the claims of processes that are gone go at the next start."""
    try:
        (folder / "claims" / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _keep_features(config: FinetuneConfig, run: Path, out: Path) -> None:
    """f16[E, D] of the utterances of each split, in the order of the corpus."""
    path = out / f"features-{config.train.seed}.npz"
    if path.exists() or not _claim(run.parent, path.name):
        return
    from emojax.data.readers import read_corpus
    from emojax.data.text_encoder import open_text_encoder

    encoder, corpus = open_text_encoder(str(run / "encoder")), read_corpus(config.data.source)
    names, arrays = corpus.signature.speakers, {}
    for split, found in corpus.splits.items():
        pieces = [
            shown for each in found
            for shown in encoder.read(each.transcript, [names[who] for who in each.speaker])
        ]  # fmt: skip
        arrays[split] = encoder.encode(pieces).astype(np.float16)
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez_compressed(file, name=np.array(name_of(config)), **arrays)
    temporary.rename(path)


def main() -> int:
    parser = command.parser("experiments.meld_text", __doc__)
    command.add_settings(parser, "all fine-tunings")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, metavar="DIR", help="for the runs (OUT/runs)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the device")
    parser.add_argument("--seconds", type=float, default=1e9, help="how long it may take")
    parser.add_argument("--redraw", action="store_true", help="tables alone")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # makes this a worker
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    began = time.time()
    options.config = options.config or BASE
    values, assignments = command.settings(options)
    plan, work_in = Plan(values, assignments), options.work or options.out / "runs"
    if options.redraw:
        from experiments.meld_tables import draw

        draw(plan, options.out)
        return
    if options.until is None:
        shutil.rmtree(work_in / "claims", ignore_errors=True)
        (work_in / "claims").mkdir(parents=True)
        options.out.mkdir(parents=True, exist_ok=True)
        options.until = began + options.seconds
        if options.workers > 1:
            _gather(options)
            return
    search_until = options.until - (1 - SEARCH_SHARE) * options.seconds
    work(plan, options.out, work_in, until=options.until, search_until=search_until)


def _gather(options: argparse.Namespace) -> None:
    """Start the workers and wait for them."""
    again = [sys.executable, "-m", "experiments.meld_text", *sys.argv[1:]]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    workers = [
        subprocess.Popen([*again, "--until", str(options.until)], env=environment)
        for _ in range(options.workers)
    ]
    for worker in workers:
        worker.wait()


if __name__ == "__main__":
    sys.exit(main())
