"""MELD's words through a fine-tuned text encoder, and what its pretraining is worth.

    python -m experiments.meld_text --data ../shared/data/meld --out runs/meld_text
    python -m experiments.meld_text --out runs/meld_text --redraw

Settings are chosen on the validation split alone: every variant of `VARIANTS` with one seed, then
the best `FINALISTS` with a second, by the mean of both. The chosen one is trained with `SEEDS`
seeds, whose utterance features (`features-SEED.npz`, fp16) and encoders are what the second stage
reads (`experiments.meld_context`). Then the curve: the chosen settings on shares of the training
conversations, beside the same encoder from random weights, whose own rate is chosen on validation
likewise. Small shares get more epochs; the epoch is always chosen on the whole validation split.

A line of OUT/results.jsonl for each fine-tuning, which is never done twice: started again, the
program goes on where it was stopped. `--workers` of them share a device; `--seconds` ends it in
time. Drawn from the lines alone: tables (`table.md`) and the curve (`curve.png`).

Cost: a fine-tuning takes about 20 minutes on two cores and well under a minute on an H100, where
eight at a time do all of it in some minutes. Measured: see README.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config import digest, from_dict, override
from emojax.config.finetune import FinetuneConfig
from experiments import command

BASE = Path(__file__).parent / "meld_text.toml"
# Those that are one program stand apart, so that workers compile different ones first.
VARIANTS: dict[str, list[str]] = {
    "base": [],
    "96 pieces, 8 turns": ["text.turns=8", "text.tokens=96"],
    "adapters of rank 16": [
        "text.lora_rank=16", "text.lora_feed_forward=true", "train.learning_rate=1e-3",
        "train.layer_decay=1.0", "train.epochs=6",
    ],
    "average of weights": ["train.ema_decay=0.99", "train.learning_rate=2e-4"],
    "48 pieces, 3 turns": ["text.turns=3", "text.tokens=48", "train.epochs=3"],
    "dropout .2": ["text.dropout=0.2", "train.epochs=6", "train.learning_rate=2e-4"],
    "rate 5e-5": ["train.learning_rate=5e-5"],
    "rate 2e-4": ["train.learning_rate=2e-4"],
    "rate 2e-4, layers decay .8": ["train.learning_rate=2e-4", "train.layer_decay=0.8"],
    "rate 2e-4, 96 pieces": [
        "train.learning_rate=2e-4", "train.layer_decay=0.8", "text.turns=8", "text.tokens=96",
    ],
    "rate 2e-4, 128 pieces": [
        "train.learning_rate=2e-4", "train.layer_decay=0.8", "text.turns=12", "text.tokens=128",
    ],
    "rate 2e-4, layers decay .7, 6 epochs": [
        "train.learning_rate=2e-4", "train.layer_decay=0.7", "train.epochs=6",
    ],
}  # fmt: skip
RANDOM: dict[str, list[str]] = {
    f"random weights, rate {rate:g}": [
        "text.pretrained=false", f"train.learning_rate={rate}", "train.layer_decay=1.0",
        "train.epochs=8",
    ]
    for rate in (2e-4, 6e-4)
}  # fmt: skip
FINALISTS = 7
SEEDS = 5
SHARES = (1.0, 0.3, 0.1, 0.03, 0.01)
CURVE_SEEDS = 3
MOST_EPOCHS = 40
SEARCH_SHARE = 0.5
"""Of the seconds there are, how many the choice of settings may take."""

Line = dict[str, Any]


def score_of(line: Line, split: str) -> float:
    """Weighted F1 of the epoch that validation chose."""
    return (line["test"] if split == "test" else line["best"][split])["weighted_f1"]


def name_of(config: FinetuneConfig) -> str:
    """Of a fine-tuning, wherever its corpus and its encoder lie."""
    data = dataclasses.replace(config.data, source="")
    text = dataclasses.replace(config.text, encoder="minilm")
    return digest(dataclasses.replace(config, data=data, text=text))


class Results:
    """The lines of OUT/results.jsonl, by the names of their fine-tunings."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> dict[str, Line]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        # A process that was killed may have left half a line, the last one.
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        return {line["name"]: line for line in lines}

    def add(self, line: Line) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(json.dumps(line) + "\n")


class Plan:
    """Which fine-tunings there are, as far as what is done already tells."""

    def __init__(self, base: dict[str, Any], assignments: list[str]):
        self._base, self._assignments = base, assignments

    def config(self, variant: str, seed: int, share: float = 1.0) -> FinetuneConfig:
        given = [*(VARIANTS | RANDOM)[variant], *self._assignments]
        given += [f"train.seed={seed}", f"data.train_share={share}"]
        config = from_dict(override(self._base, given), FinetuneConfig)
        # As many passes more as the root of the share is smaller: neither as many steps as with
        # all conversations, which would learn them by heart, nor a handful.
        epochs = max(config.train.epochs, round(config.train.epochs * share**-0.5))
        given.append(f"train.epochs={min(epochs, max(MOST_EPOCHS, config.train.epochs))}")
        return from_dict(override(self._base, given), FinetuneConfig)

    def first(self) -> list[FinetuneConfig]:
        return [self.config(variant, 0) for variant in (*VARIANTS, *RANDOM)]

    def second(self, found: dict[str, Line]) -> list[FinetuneConfig]:
        ranked = sorted(VARIANTS, key=lambda v: -self.validation(found, v, [0]))
        return [self.config(variant, 1) for variant in ranked[:FINALISTS]]

    def validation(self, found: dict[str, Line], variant: str, seeds: list[int]) -> float:
        """Mean weighted F1 of the selected epochs; -1 where a seed is not done."""
        lines = [found.get(name_of(self.config(variant, seed))) for seed in seeds]
        done = [score_of(line, "validation") for line in lines if line and "best" in line]
        return float(np.mean(done)) if len(done) == len(seeds) else -1.0

    def chosen(self, found: dict[str, Line]) -> str:
        """By two seeds where any variant has both, else by one."""
        both = max(VARIANTS, key=lambda v: self.validation(found, v, [0, 1]))
        if self.validation(found, both, [0, 1]) > 0:
            return both
        return max(VARIANTS, key=lambda v: self.validation(found, v, [0]))

    def chosen_random(self, found: dict[str, Line]) -> str:
        return max(RANDOM, key=lambda v: self.validation(found, v, [0]))

    def final(self, found: dict[str, Line]) -> list[FinetuneConfig]:
        return [self.config(self.chosen(found), seed) for seed in range(SEEDS)]

    def curve(self, found: dict[str, Line]) -> list[FinetuneConfig]:
        variants = self.chosen(found), self.chosen_random(found)
        return [
            self.config(variant, seed, share)
            for seed in range(CURVE_SEEDS) for share in SHARES for variant in variants
        ]  # fmt: skip


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
