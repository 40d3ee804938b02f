"""One conversation as a picture: who spoke, what was felt, what the model said and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from emojax.evaluate.decisions import Decisions, decide
from emojax.evaluate.plots import BLUE, GREEN, GREY, INK, ORANGE, PALE, STYLE, VERMILION, clean
from emojax.types import MODALITIES, Prediction

# Paul Tol's "light" scheme: nine fills that colour-blind readers tell apart under black text.
FILLS = (
    *("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF"),
    *("#44BB99", "#BBCC33", "#AAAA00", "#DDDDDD"),
)
MODALITY_COLOURS = (BLUE, ORANGE, GREEN)
MODALITY_LETTERS = tuple(name[0].upper() for name in MODALITIES)

PER_ROW = 28
"""Utterances side by side at most; a longer conversation continues below."""

LANES = 7
"""Speakers with a lane of their own; the rest share one."""

LONGEST = 6 * PER_ROW
"""Utterances drawn at most: a page. The longest public dialogues have 110."""

# Heights and widths in inches.
CELL, LANE, CELL_ROW, MARK_ROW, BARS, GAP = 0.36, 0.2, 0.3, 0.22, 0.55, 0.12


def abbreviations(labels: Sequence[str]) -> list[str]:
    """Labels cut to three characters, or to as few more as tell them apart, five at most.

    Labels that only differ later get their first character and their index.
    """
    names = [clean(label, 100) or "?" for label in labels]
    for length in (3, 4, 5):
        short = [name[:length] for name in names]
        if len(set(short)) == len(short):
            return short
    return [f"{name[0]}{index}" for index, name in enumerate(names)]


def timeline(prediction: Prediction, labels: Sequence[str], speakers: Sequence[str]) -> Figure:
    """Draws a conversation from left to right, `PER_ROW` utterances a row, numbered from 1.

    Each row shows, top to bottom: a lane per speaker; the true and the predicted emotion, with a
    heavy frame and a cross at a mistake; the confidence, hatched at a mistake; the weights of
    the modalities, of a model that has them; how far the words contradict the decision, where that
    was measured, with a dash at utterances without words; and each modality's share of the
    |contributions|, hatched where it argues against the decision, with the letter of the modality
    that carried it. Only the first `LONGEST` utterances are drawn; the title says so.
    """
    L = min(len(prediction.label), LONGEST)
    rows = -(-L // PER_ROW)
    per_row = -(-L // rows)
    drawing = _Drawing.of(prediction, labels, speakers)
    above = len(drawing.lanes) * LANE + 2 * CELL_ROW + MARK_ROW
    parts = {"emotions": (above, lambda axes, shown: drawing.emotions(axes, shown, above))}
    parts["confidence"] = (BARS, drawing.confidence)
    if prediction.weights is not None:
        parts["weights"] = (BARS, drawing.weights)
    if prediction.contradiction is not None:
        parts["contradiction"] = (BARS, drawing.contradiction)
    parts["modality"] = (BARS, drawing.modality)
    row_height = above + (len(parts) - 1) * (GAP + BARS) + 0.55
    left, right = 1.75, 0.25
    columns = max(per_row, 10)
    width = max(left + right + CELL * columns, 8.5)
    legend_rows = -(-len(labels) // 5)
    head = 0.85 + 0.2 * legend_rows
    height = head + rows * row_height
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        _head(figure, drawing, prediction.id, height, legend_rows)
        for row in range(rows):
            first = row * per_row
            shown = range(first, min(first + per_row, L))
            top = height - head - row * row_height
            for name, (size, draw) in parts.items():
                box = (left, top - size, width - left - right, size)
                scale = (width, height, width, height)
                area = [part / whole for part, whole in zip(box, scale, strict=True)]
                axes = figure.add_axes((area[0], area[1], area[2], area[3]), label=f"{name} {row}")
                axes.set_xlim(first + 0.5, first + 0.5 + columns)
                axes.set_xticks([])
                axes.spines[:].set_visible(False)
                draw(axes, shown)
                top -= size + GAP
    return figure


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """A conversation ready to be drawn: cut names, and the lane each utterance belongs to."""

    prediction: Prediction
    decision: Decisions
    names: list[str]
    short: list[str]
    lanes: list[str]
    lane: np.ndarray

    @classmethod
    def of(cls, prediction: Prediction, labels: Sequence[str], speakers: Sequence[str]) -> _Drawing:
        who, first, inverse, count = np.unique(
            prediction.speaker, return_index=True, return_inverse=True, return_counts=True
        )
        talkative = np.argsort(-count, kind="stable")[:LANES]
        order = sorted(talkative, key=lambda index: first[index])
        lane_of = np.full(len(who), len(order))
        lane_of[order] = np.arange(len(order))
        lanes = [clean(speakers[who[index]], 13) or "?" for index in order]
        if len(who) > LANES:
            lanes.append(f"{len(who) - LANES} others")
        names = [clean(label) for label in labels]
        return cls(
            prediction, decide(prediction), names, abbreviations(labels), lanes, lane_of[inverse]
        )

    def emotions(self, axes: Axes, shown: range, height: float) -> None:
        axes.set_ylim(height, 0)
        lanes_end = len(self.lanes) * LANE
        true_row, predicted_row = lanes_end, lanes_end + CELL_ROW
        mark = predicted_row + CELL_ROW + MARK_ROW / 2
        ticks = [(i + 0.5) * LANE for i in range(len(self.lanes))]
        ticks += [true_row + CELL_ROW / 2, predicted_row + CELL_ROW / 2, mark]
        axes.set_yticks(ticks, [*self.lanes, "true", "predicted", "mistake"], fontsize=9)
        axes.tick_params(length=0)
        end = shown[-1] + 1.5
        for tick in ticks[: len(self.lanes)]:
            axes.plot([shown[0] + 0.5, end], [tick, tick], color=PALE, linewidth=0.6, zorder=0)
        for index in shown:
            x = index + 1
            lane = self.lane[index] * LANE
            spot = (x - 0.42, lane + 0.03)
            axes.add_patch(Rectangle(spot, 0.84, LANE - 0.06, facecolor="#4d4d4d", gid="lane"))
            label = int(self.prediction.label[index])
            predicted = int(self.decision.predicted[index])
            wrong = self.decision.scored[index] and not self.decision.correct[index]
            self._cell(axes, x, true_row, label, wrong=False)
            self._cell(axes, x, predicted_row, predicted, wrong=wrong)
            if wrong:
                axes.plot([x], [mark], marker="x", color=INK, markersize=6, mew=1.8, gid="mistake")

    def _cell(self, axes: Axes, x: int, top: float, label: int, wrong: bool) -> None:
        known = label >= 0
        inset = 0.025
        axes.add_patch(
            Rectangle(
                (x - 0.5 + inset, top + inset),
                1 - 2 * inset,
                CELL_ROW - 2 * inset,
                facecolor=FILLS[label % len(FILLS)] if known else "white",
                edgecolor=INK if wrong else (PALE if known else GREY),
                linestyle="-" if known else ":",
                linewidth=1.8 if wrong else 0.6,
                zorder=2 if wrong else 1,
                gid="cell",
            )
        )
        text = self.short[label] if known else "–"
        size = {1: 9, 2: 9, 3: 8.5, 4: 7.5}.get(len(text), 6.5)
        axes.text(x, top + CELL_ROW / 2, text, ha="center", va="center", fontsize=size, zorder=3)

    def confidence(self, axes: Axes, shown: range) -> None:
        x = np.array(shown) + 1
        value = self.decision.confidence[shown.start : shown.stop]
        bars = axes.bar(
            x, value, 0.72, color=GREY, edgecolor=INK, linewidth=0.5, label="confidence"
        )
        for index, bar in zip(shown, bars, strict=True):
            if self.decision.scored[index] and not self.decision.correct[index]:
                bar.set(facecolor="white", hatch="/////", edgecolor=VERMILION)
        chance, ends = 1 / len(self.short), [shown[0] + 0.5, shown[-1] + 1.5]
        axes.plot(ends, [chance, chance], color=INK, linewidth=0.7, linestyle=":", label="chance")
        _scale(axes)
        _row_name(axes, "confidence", left=0.45)

    def weights(self, axes: Axes, shown: range) -> None:
        x, bottom = np.array(shown) + 1, np.zeros(len(shown))
        weights = np.asarray(self.prediction.weights)[shown.start : shown.stop]
        for m, colour in enumerate(MODALITY_COLOURS):
            axes.bar(
                x, weights[:, m], 0.72, bottom, color=colour, edgecolor="white", linewidth=0.5,
                label=MODALITIES[m],
            )  # fmt: skip
            bottom = bottom + weights[:, m]
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        _row_name(axes, "weights")

    def contradiction(self, axes: Axes, shown: range) -> None:
        value = np.asarray(self.prediction.contradiction)[shown.start : shown.stop]
        x, heard = np.array(shown) + 1, ~np.isnan(value)
        axes.bar(
            x[heard], value[heard], 0.72, color=VERMILION, edgecolor=INK, linewidth=0.5,
            label="contradiction",
        )  # fmt: skip
        for column in x[~heard]:
            axes.text(column, 0.02, "–", ha="center", va="bottom", fontsize=7.5, color=GREY)
        _scale(axes)
        _row_name(axes, "contradiction", left=0.45)

    def modality(self, axes: Axes, shown: range) -> None:
        x = np.array(shown) + 1
        present = np.asarray(self.prediction.present, bool)[shown.start : shown.stop]
        signed = np.where(present, self.prediction.contribution[shown.start : shown.stop], 0.0)
        total = abs(signed).sum(-1, keepdims=True)
        share = np.divide(abs(signed), total, out=np.zeros_like(signed), where=total > 0)
        bottom = np.zeros(len(x))
        for m, colour in enumerate(MODALITY_COLOURS):
            bars = axes.bar(
                x, share[:, m], 0.72, bottom, color=colour, edgecolor="white", linewidth=0.5,
                label=MODALITIES[m],
            )  # fmt: skip
            for bar, against in zip(bars, signed[:, m] < 0, strict=True):
                if against:
                    bar.set(facecolor="white", hatch="/////", edgecolor=colour)
            bottom = bottom + share[:, m]
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        carried = self.decision.modality[shown.start : shown.stop]
        letters = [MODALITY_LETTERS[m] if m >= 0 else "–" for m in carried]
        ticks = [f"{letter}\n{n}" for letter, n in zip(letters, x, strict=True)]
        axes.set_xticks(x, ticks, fontsize=7.5, linespacing=1.5)
        axes.tick_params(length=0, pad=2)
        for text, height in (("modality", 0.5), ("carried by", -0.25), ("utterance", -0.52)):
            _row_name(axes, text, height)


def _scale(axes: Axes) -> None:
    """An axis from nothing to all."""
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1], ["0", "", "100 %"], fontsize=7.5)
    axes.spines["left"].set_visible(True)


def _row_name(axes: Axes, name: str, height: float = 0.5, left: float = 0.07) -> None:
    """Writes `name` so many inches left of the axes, at a height in shares of the axes'."""
    axes.annotate(
        name,
        (0, height),
        (-72 * left, 0),
        xycoords="axes fraction",
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
    )


def _head(figure: Figure, drawing: _Drawing, id: str, height: float, legend_rows: int) -> None:
    decision, L = drawing.decision, len(drawing.lane)
    right = f"{decision.correct.sum()} of {decision.scored.sum()} right"
    part = f", first {LONGEST} of {L} utterances shown" if L > LONGEST else ""
    title = f"Conversation {clean(id, 40)}: {right}{part}"
    figure.text(0.02, 1 - 0.12 / height, title, va="top", fontsize=12)
    top = 1 - 0.42 / height
    # The space in front keeps names that begin with "_", which older matplotlib leaves out.
    cells = [
        Patch(facecolor=FILLS[i % len(FILLS)], edgecolor=PALE, label=f" {short}  {name}")
        for i, (short, name) in enumerate(zip(drawing.short, drawing.names, strict=True))
    ]
    columns = -(-len(cells) // legend_rows)
    common = {"fontsize": 9, "borderpad": 0, "borderaxespad": 0, "handlelength": 1.4}
    figure.legend(
        handles=cells, loc="upper left", bbox_to_anchor=(0.02, top), ncols=columns, **common
    )
    modalities = [
        Patch(facecolor=colour, label=f" {letter}  {name}")
        for colour, letter, name in zip(MODALITY_COLOURS, MODALITY_LETTERS, MODALITIES, strict=True)
    ]
    modalities += [
        Patch(facecolor="white", edgecolor=GREY, hatch="/////", label=" modality argues against"),
        Patch(facecolor="white", edgecolor=VERMILION, hatch="/////", label=" mistake"),
    ]
    below = top - (0.2 * legend_rows + 0.05) / height
    figure.legend(
        handles=modalities, loc="upper left", bbox_to_anchor=(0.02, below), ncols=5, **common
    )
