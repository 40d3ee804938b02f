"""Accuracy along an axis, a line for each model: tables and a picture, from results alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emojax.evaluate import plots
from emojax.evaluate.markup import escape
from experiments.sheet import Sheet, spread
from experiments.store import Result
from experiments.tables import RESAMPLES, Row, compare

SIGNIFICANT = 0.05
MARKERS = "os^DvPX<>*"

NOTE = (
    "Test accuracy, %, mean ± sample deviation over seeds. Different from the first model at the "
    f"{SIGNIFICANT:.0%} level, corrected by Holm over the column: * by a paired bootstrap of "
    f"{RESAMPLES} resamples of dialogues, † by McNemar's test of what most seeds decide. The last "
    "row counts the models that the first is ahead of, in brackets those with a *."
)


@dataclasses.dataclass(frozen=True)
class Panel:
    """What belongs to one axis.

    Attributes:
      title: of the panel.
      axis: what is along it, with its unit.
      lines: by name, (variant, condition) at each place of the axis; the condition as in
        `Result.conditions`, "" the test split as it is.
      reference: the line that the others are compared with, place by place.
      logarithmic: whether the axis is.
    """

    title: str
    axis: str
    lines: Mapping[str, Mapping[float, tuple[str, str]]]
    reference: str
    logarithmic: bool = False

    @property
    def places(self) -> list[float]:
        """Of any line, increasing."""
        return sorted({x for line in self.lines.values() for x in line})


Found = Mapping[str, Mapping[float, Row]]
"""What was found of a panel: by line, then by place."""


def conditions(panels: Sequence[Panel]) -> list[str]:
    """What the test split of every run must be looked at under."""
    named = [name for p in panels for line in p.lines.values() for _, name in line.values()]
    return [name for name in dict.fromkeys(named) if name]


def look_up(panel: Panel, results: Sequence[Result]) -> Found:
    """Rows of the lines that have results; of each place the p values are corrected by Holm."""
    found: dict[str, dict[float, Row]] = {name: {} for name in panel.lines}
    for x in panel.places:
        at = {name: line[x] for name, line in panel.lines.items() if x in line}
        seen = [
            dataclasses.replace(each, variant=name)
            for name, (variant, condition) in at.items()
            for each in (r.under(condition) for r in results if r.variant == variant)
            if each is not None
        ]
        for row in compare(seen, list(at), panel.reference):
            found[row.variant][x] = row
    return {name: line for name, line in found.items() if line}


def sheet(panel: Panel, found: Found, missing: Mapping[str, float]) -> Sheet:
    """Lines by places: accuracy, and whether it differs from the reference's.

    Args:
      missing: as in `Result.missing`.
    """
    rows = [
        [name, *(_cell(line.get(x)) for x in panel.places)]
        for name, line in sorted(found.items(), key=lambda item: item[0] != panel.reference)
    ]
    named = [{line[x][1] for line in panel.lines.values() if x in line} for x in panel.places]
    share = [next((f"{100 * missing[n]:.1f}" for n in each if n in missing), "–") for each in named]
    if len(set(share)) > 1:
        rows.insert(0, ["observations missing, %", *share])
    others = [line for name, line in found.items() if name != panel.reference]
    if panel.reference in found and others:
        ahead = [_ahead([line[x] for line in others if x in line]) for x in panel.places]
        rows.append([f"{panel.reference} ahead of", *ahead])
    header = [panel.axis, *(f"{x:g}" for x in panel.places)]
    return Sheet(panel.title, header, rows, NOTE)


def _cell(row: Row | None) -> str:
    if row is None:
        return "–"
    marks = ("*", row.p_bootstrap), ("†", row.p_mcnemar)
    return spread(row.percent("accuracy")) + "".join(mark for mark, p in marks if p < SIGNIFICANT)


def _ahead(others: Sequence[Row]) -> str:
    behind = [row for row in others if row.difference < 0]
    surely = [row for row in behind if row.p_bootstrap < SIGNIFICANT]
    return f"{len(behind)} of {len(others)} ({len(surely)})"


def figure(panels: Sequence[Panel], found: Sequence[Found], title: str) -> Figure:
    """A panel each: means, with a bar of a deviation where there are several seeds."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    columns = min(len(panels), 2)
    height = -(-len(panels) // columns)
    with matplotlib.rc_context(plots.STYLE):
        drawn = Figure(figsize=(4.6 * columns + 1.6, 3.3 * height + 0.4), layout="constrained")
        grid = drawn.subplots(height, columns, squeeze=False)
        handles = {}
        for panel, each, axes in zip(panels, found, grid.flat, strict=False):
            for name, line in each.items():
                handles[name] = _draw_line(axes, line, names.index(name), name == panel.reference)
            if panel.logarithmic:
                axes.set_xscale("log")
                axes.minorticks_off()
            axes.set_xticks(panel.places, [f"{x:g}" for x in panel.places])
            axes.set(title=panel.title, xlabel=panel.axis, ylabel="test accuracy, %")
            axes.grid(color=plots.PALE, linewidth=0.6)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        shown = [name for name in names if name in handles]
        drawn.legend([handles[name] for name in shown], shown, loc="outside right center")
        drawn.suptitle(title)
    return drawn


def _draw_line(axes: Any, line: Mapping[float, Row], number: int, first: bool) -> Any:
    """Mean and deviation at each place, the reference in black and on top; returns its handle."""
    x = sorted(line)
    return axes.errorbar(
        x, [100 * line[at].mean("accuracy") for at in x],
        np.nan_to_num([100 * line[at].deviation("accuracy") for at in x]), capsize=2,
        marker=MARKERS[number % len(MARKERS)], markersize=5 if first else 3.5,
        color=plots.INK if first else f"C{number % 10}", linewidth=2.2 if first else 1.2,
        elinewidth=0.9, zorder=3 if first else 2,
    )  # fmt: skip


def draw(
    panels: Sequence[Panel], results: Sequence[Result], out: Path, name: str, question: str
) -> list[Sheet]:
    """Write `curves.md`, `curves.tex` and `curves.png` of what has results; returns the tables."""
    looked = [(panel, look_up(panel, results)) for panel in panels]
    panels = [panel for panel, found in looked if found]
    found = [found for _, found in looked if found]
    if not found:
        return []
    missing = {name: share for each in results for name, share in each.missing.items()}
    sheets = [sheet(*each, missing) for each in zip(panels, found, strict=True)]
    tables = [dataclasses.replace(each, note="").markdown(depth=2) for each in sheets]
    page = "\n".join([f"# {escape(f'{name}: {question}')}", "", *tables, NOTE, ""])
    (out / "curves.md").write_text(page, "utf-8")
    (out / "curves.tex").write_text("\n".join(s.latex() for s in sheets), "utf-8")
    (out / "curves.png").write_bytes(plots.render(figure(panels, found, name)))
    return sheets
