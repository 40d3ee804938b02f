"""The table that `experiments.export_table` fills, and what is drawn of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from emojax.config import MODELS
from emojax.evaluate import plots
from emojax.files import write_atomically
from experiments.sheet import Sheet, spread

FORMATS: dict[str, tuple[str, str | None]] = {
    "onnx": ("onnx", None), "int8": ("onnx", "int8"), "stablehlo": ("stablehlo", None),
    "torch": ("torch", None), "iree": ("iree", None),
}  # fmt: skip
NOTE = (
    "Size is of the files that hold weights; an IREE export has a file for each of three lengths "
    "of rows. Weighted F1 is on validation, each format's less JAX's. Differences are of "
    "probabilities from JAX's, the largest over batches of validation conversations alone, side by "
    "side, packed and with modalities missing. Latency is of one conversation of median length "
    "({}), median and 95th percentile of 100 calls, on the two CPU cores that exported."
)
COLOURS = (plots.INK, plots.ORANGE, plots.BLUE, plots.VERMILION, plots.GREEN)

Card = dict[str, Any]


class Table:
    """Cards by model, format and seed, as a file that holds all of them."""

    def __init__(self, path: Path):
        self.path = path
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        self.cards: dict[tuple[str, str, int], Card] = {
            (card["model"], card["format"], card["seed"]): card for card in kept
        }

    def has(self, model: str, format: str, seed: int, run: str) -> bool:
        """Whether a run was exported; what could not be is tried again."""
        card = self.cards.get((model, format, seed), {})
        return card.get("run") == run and "problem" not in card

    def add(self, model: str, format: str, seed: int, run: str, card: Card) -> None:
        own = {"model": model, "format": format, "seed": seed, "run": run}
        self.cards[model, format, seed] = card | own
        ordered = sorted(
            self.cards.values(),
            key=lambda c: (list(MODELS).index(c["model"]), list(FORMATS).index(c["format"]),
                           c["seed"]),
        )  # fmt: skip
        # A card a line: what changes is then what a diff shows.
        lines = ",\n".join(json.dumps(each) for each in ordered)
        write_atomically(self.path, f"[\n{lines}\n]\n")

    def of(self, model: str, format: str) -> list[Card]:
        """Of all seeds."""
        found = [key for key in self.cards if key[:2] == (model, format)]
        return [self.cards[key] for key in sorted(found)]

    @property
    def models(self) -> list[str]:
        return [name for name in MODELS if any(key[0] == name for key in self.cards)]

    @property
    def formats(self) -> list[str]:
        return [name for name in FORMATS if any(key[1] == name for key in self.cards)]


def sheets(table: Table) -> tuple[list[Sheet], list[str]]:
    """A sheet for each thing that is to be known, models by formats; why cells are empty."""
    reasons: list[str] = []

    def cell(model: str, format: str, tell: Any) -> str:
        cards = table.of(model, format)
        for problem in (card["problem"] for card in cards if "problem" in card):
            # Models share what is wrong with all of them.
            reason = (
                problem.replace(f"{model} ", "It ", 1) if problem.startswith(model) else problem
            )
            if reason not in reasons:
                reasons.append(reason)
            return f"– ({reasons.index(reason) + 1})"
        return tell(cards) if cards else ""

    def rows(tell: Any, first: Any = None) -> list[list[str]]:
        return [
            [model, *([cell(model, table.formats[0], first)] if first else []),
             *(cell(model, format, tell) for format in table.formats)]
            for model in table.models
        ]  # fmt: skip

    def score(cards: Sequence[Card], which: str) -> np.ndarray:
        return 100 * np.array([card["validation_weighted_f1"][which] for card in cards])

    def loss(cards: Sequence[Card]) -> str:
        return spread(score(cards, "exported") - score(cards, "jax"), 2, "+")

    def milliseconds(cards: Sequence[Card]) -> str:
        p50, p95 = (np.mean([c["latency_ms"][p] for c in cards]) for p in ("p50", "p95"))
        return f"{p50:.1f}, {p95:.1f}"

    of_float = rows(lambda cards: f"{np.mean([card['bytes'] for card in cards]) / 1e6:.3f}")
    size = ["model", *table.formats]
    if {"onnx", "int8"} <= set(table.formats):
        size.append("int8 of onnx")
        for model, row in zip(table.models, of_float, strict=True):
            row.append(share(table, model))
    found = [
        Sheet("Size, MB", size, of_float, ""),
        Sheet(
            "Weighted F1 on validation, %", ["model", "JAX", *table.formats],
            rows(loss, lambda cards: spread(score(cards, "jax"))), "",
        ),
        Sheet(
            "Largest difference of a probability", ["model", *table.formats],
            rows(lambda cards: f"{max(c['largest_difference'] for c in cards):.0e}"), "",
        ),
        Sheet(
            "Latency of one conversation, ms: p50, p95", ["model", *table.formats],
            rows(milliseconds), "",
        ),
    ]  # fmt: skip
    return found, reasons


def share(table: Table, model: str) -> str:
    """How large the int8 file is beside that with floats."""
    both = [[card.get("bytes") for card in table.of(model, f)] for f in ("int8", "onnx")]
    if not all(both) or None in (*both[0], *both[1]):
        return ""
    return f"{100 * np.mean(both[0]) / np.mean(both[1]):.1f} %"


def figure(table: Table) -> Figure:
    """Size and latency of every model in every format."""
    models = table.models[::-1]
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(9, 1.4 + 0.3 * len(models)), layout="constrained")
        panels = drawn.subplots(1, 2, sharey=True)
        told: Iterable[tuple[Any, str, Any]] = (
            (panels[0], "size, MB", lambda card: card["bytes"] / 1e6),
            (panels[1], "latency (p50), ms", lambda card: card["latency_ms"]["p50"]),
        )
        for axes, label, value in told:
            for colour, format in zip(COLOURS, FORMATS, strict=True):
                cards = [(y, table.of(model, format)) for y, model in enumerate(models)]
                there = [(y, each) for y, each in cards if each and "bytes" in each[0]]
                axes.plot(
                    [np.mean([value(card) for card in each]) for _, each in there],
                    [y for y, _ in there], "o", color=colour, markersize=5, alpha=0.85,
                    label=format if there else None,
                )  # fmt: skip
            low, high = axes.dataLim.intervalx
            if high > 10 * low:
                axes.set_xscale("log")
            else:  # decades would leave it without a figure
                axes.set_xlim(0, 1.1 * high)
            axes.set(xlabel=label)
            axes.grid(axis="x", color=plots.PALE, linewidth=0.6)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[0].set_yticks(range(len(models)), models)
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
    return drawn


def draw(table: Table, out: Path) -> None:
    """Write what the cards say."""
    found, reasons = sheets(table)
    lengths = sorted({c["utterances_of_latency"] for c in table.cards.values() if "bytes" in c})
    about = NOTE.format(f"{' or '.join(map(str, lengths))} utterances")
    notes = [f"{i}. {reason}." for i, reason in enumerate(reasons, start=1)]
    text = [
        "# Models in other runtimes", "", *(each.markdown(depth=2) for each in found), about,
        *(["", "Why there is none:", "", *notes] if notes else []),
    ]  # fmt: skip
    write_atomically(out / "table.md", "\n".join(text) + "\n")
    write_atomically(out / "exports.png", plots.render(figure(table)))
