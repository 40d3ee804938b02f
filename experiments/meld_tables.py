"""What `experiments.meld_text` found, as tables and a picture, from its lines alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emojax.config.finetune import FinetuneConfig
from emojax.evaluate import plots
from experiments.meld_plan import (
    CURVE_SEEDS,
    RANDOM,
    SEEDS,
    SHARES,
    VARIANTS,
    Line,
    Plan,
    Results,
    name_of,
    score_of,
)
from experiments.sheet import Sheet, spread

Curve = Mapping[float, Sequence[float]]
"""Test weighted F1 of each seed, by share of the training conversations."""


def draw(plan: Plan, out: Path) -> None:
    """Write `table.md` and `curve.png`, and print the former."""
    found = Results(out / "results.jsonl").read()
    sheets = [choice(plan, found), final(plan, found)]
    curves = {
        "pretrained": _curve(plan, found, plan.chosen(found)),
        "random weights": _curve(plan, found, plan.chosen_random(found)),
    }
    if all(curves.values()):
        sheets += [of_curve(curves), saved(curves)]
        (out / "curve.png").write_bytes(plots.render(figure(curves)))
    text = "\n".join(["# MELD, a text encoder fine-tuned", "", *(s.markdown(2) for s in sheets)])
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def choice(plan: Plan, found: Mapping[str, Line]) -> Sheet:
    """What was tried, and what validation said of it."""
    rows = []
    for variant in (*VARIANTS, *RANDOM):
        lines = [_line(plan.config(variant, seed), found) for seed in (0, 1)]
        values = [100 * score_of(line, "validation") for line in lines if line]
        if values:
            rows.append([variant, str(len(values)), spread(values), _of(lines, "seconds")])
    rows.sort(key=lambda row: row[2], reverse=True)
    chosen = plan.chosen(dict(found))
    note = f"Validation weighted F1, %. Chosen: {chosen}, by two seeds where any variant has both."
    return Sheet("Choice of settings", ["", "seeds", "validation", "seconds"], rows, note)


def final(plan: Plan, found: Mapping[str, Line]) -> Sheet:
    chosen = plan.chosen(dict(found))
    lines = [_line(plan.config(chosen, seed), found) for seed in range(SEEDS)]
    done = [line for line in lines if line]
    scores = [spread([100 * score_of(x, split) for x in done]) for split in ("validation", "test")]
    rows = [[chosen, str(len(done)), *scores]]
    note = "Weighted F1, %, mean ± sample deviation over seeds, epochs chosen on validation."
    if done:
        note += f" On {done[0]['device']}, {_of(lines, 'seconds')} s each."
    return Sheet("The chosen settings", ["", "seeds", "validation", "test"], rows, note)


def of_curve(curves: Mapping[str, Curve]) -> Sheet:
    rows = [
        [name, *(spread([100 * x for x in curve[s]]) if s in curve else "–" for s in SHARES[::-1])]
        for name, curve in curves.items()
    ]
    header = ["share of the training conversations, %", *(f"{100 * s:g}" for s in SHARES[::-1])]
    least = min(len(values) for curve in curves.values() for values in curve.values())
    note = f"Test weighted F1, %, mean ± sample deviation of {least} to {CURVE_SEEDS} seeds."
    return Sheet("Label efficiency", header, rows, note)


def saved(curves: Mapping[str, Curve]) -> Sheet:
    """How many labelled conversations pretraining saves at equal weighted F1, seed by seed."""
    ours, theirs = curves["pretrained"], curves["random weights"]
    # Seeds of which every share was trained: else their curve would begin too late.
    whole = min(len(ours.get(share, ())) for share in SHARES)
    rows = []
    for share in SHARES:
        levels = theirs.get(share, ())[:whole]
        if not levels:
            continue
        needed = [_needed({s: ours[s][k] for s in SHARES}, x) for k, x in enumerate(levels)]
        bound = "at least " if min(needed) <= min(SHARES) else ""
        saved = [100 * (1 - need / share) for need in needed]
        if min(saved) > 0:
            rows.append([f"{100 * share:g}", spread([100 * x for x in levels]),
                         bound + spread(saved), str(len(levels))])  # fmt: skip
    note = (
        "What share of the conversations the pretrained encoder does without, to be as good as one "
        "from random weights that learned from all of the share on the left; between the shares "
        "that were trained, along straight lines over the logarithm. “At least”: some seed is as "
        "good with the smallest share already. Shares of which nothing can be said are left out."
    )
    header = [
        "conversations of the encoder from random weights, %",
        "its weighted F1, %",
        "saved, %",
        "seeds",
    ]
    return Sheet("Labelled conversations saved", header, rows, note)


def _needed(curve: Mapping[float, float], level: float) -> float:
    """The share from which on a curve is at that level; the smallest or 1 where it always or never
    is."""
    shares = sorted(curve)
    if not shares:
        return 1.0
    place = next((i for i, s in enumerate(shares) if curve[s] >= level), None)
    if place is None:
        return 1.0
    if place == 0:
        return shares[0]
    low, high = shares[place - 1], shares[place]
    part = (level - curve[low]) / (curve[high] - curve[low])
    return float(np.exp(np.log(low) + part * (np.log(high) - np.log(low))))


def figure(curves: Mapping[str, Curve]) -> Figure:
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = drawn.subplots()
        for (name, curve), marker in zip(curves.items(), "os", strict=True):
            x = sorted(curve)
            axes.errorbar(
                [100 * s for s in x], [100 * np.mean(curve[s]) for s in x],
                [100 * np.std(curve[s], ddof=1) if len(curve[s]) > 1 else 0.0 for s in x],
                marker=marker, capsize=2, label=name,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks([100 * s for s in SHARES], [f"{100 * s:g}" for s in SHARES])
        axes.set(
            xlabel="share of MELD's training conversations, %", ylabel="test weighted F1, %",
            title="The same encoder, pretrained and from random weights",
        )  # fmt: skip
        axes.grid(color=plots.PALE, linewidth=0.6)
        axes.legend()
    return drawn


def _curve(plan: Plan, found: Mapping[str, Line], variant: str) -> dict[float, list[float]]:
    curve = {}
    for share in SHARES:
        lines = [_line(plan.config(variant, k, share), found) for k in range(CURVE_SEEDS)]
        if values := [score_of(line, "test") for line in lines if line]:
            curve[share] = values
    return curve


def _line(config: FinetuneConfig, found: Mapping[str, Line]) -> Line | None:
    line = found.get(name_of(config))
    return line if line and "best" in line else None


def _of(lines: Sequence[Any], name: str) -> str:
    values = [line[name] for line in lines if line]
    return f"{np.mean(values):.0f}" if values else "–"
