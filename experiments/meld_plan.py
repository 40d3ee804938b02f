"""Which fine-tunings `experiments.meld_text` does, and what is known of those that are done."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any

import numpy as np

from emojax.config import digest, from_dict, override
from emojax.config.finetune import FinetuneConfig

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
