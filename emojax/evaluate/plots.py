"""The report's pictures: confusion matrix, learning curves, reliability diagram.

Every function returns a matplotlib `Figure` made without pyplot, so that nothing global is
touched and no display is needed; `render` turns it into bytes. Names of labels come from
strangers: they are shortened, stripped of control characters and never read as mathematics.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emojax.evaluate.metrics import Scores

BLUE, SKY, ORANGE, GREEN, VERMILION = "#0072B2", "#56B4E9", "#E69F00", "#009E73", "#D55E00"
"""From the palette of Okabe and Ito (2008), told apart by colour-blind readers."""

INK, GREY, PALE = "#1a1a1a", "#8a8a8a", "#d9d9d9"

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.parse_math": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "emojax",
}

DARK = {INK: "#ececec", "#ffffff": "#17191c", PALE: "#444444"}
"""What ink, paper and rules are where readers want light on dark: the colours of the pages."""


def render(figure: Figure, format: str = "png") -> bytes:
    """The figure as a file's bytes, PNG (160 dots per inch) or SVG; the same every time."""
    buffer = io.BytesIO()
    metadata = {"Date": None} if format == "svg" else None
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # A name in a script the font does not know is drawn as boxes: not worth a warning.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure.savefig(buffer, format=format, dpi=160, metadata=metadata)
    return buffer.getvalue()


def themed(svg: bytes) -> bytes:
    """The same SVG on whatever scheme, light or dark, its reader has chosen."""
    for number, colour in enumerate(DARK):
        svg = svg.replace(colour.encode(), f"var(--c{number})".encode())

    def rule(colours: Iterable[str]) -> str:
        return "svg{" + "".join(f"--c{n}:{colour};" for n, colour in enumerate(colours)) + "}"

    both = rule(DARK) + "@media(prefers-color-scheme:dark){" + rule(DARK.values()) + "}"
    return svg.replace(b"<defs>", f"<defs><style>{both}</style></defs><defs>".encode(), 1)


def clean(name: str, longest: int = 18) -> str:
    """A stranger's name as one short printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def confusion_matrix(scores: Scores, labels: Sequence[str], title: str = "") -> Figure:
    """Rows are true classes; a cell's colour and upper figure are its share of the row.

    The count stands below the share. A class that never occurs has an empty row.
    """
    C = len(labels)
    counts = scores.confusion
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    side = 2.2 + 0.72 * max(C, 3)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side + 1.1, side), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1)
        names = [clean(label, 14) for label in labels]
        axes.set_xticks(range(C), names, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(
            range(C), [f"{name} ({n})" for name, n in zip(names, total[:, 0], strict=True)]
        )
        axes.set_xlabel("predicted")
        axes.set_ylabel("true (utterances)")
        axes.set_title(title or "Confusion matrix, share of each true class")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        for row, column in np.argwhere(~np.isnan(share)):
            value = share[row, column]
            axes.text(
                column,
                row,
                f"{value:.0%}\n{counts[row, column]}",
                ha="center",
                va="center",
                fontsize=9,
                linespacing=1.3,
                color="white" if value > 0.55 else INK,
            )
        bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=28, pad=0.02)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        bar.outline.set_visible(False)
    return figure


def learning_curves(
    history: Sequence[Mapping[str, Any]],
    metric: str = "weighted_f1",
    selected: int | None = None,
) -> Figure:
    """Losses of training and validation above, the validation score below, by epoch.

    Args:
      history: one mapping per epoch: `epoch`, `train_loss`, `validation` (a mapping with `loss`
        and scores). What is missing or not finite leaves a gap in its curve.
      metric: key of `validation` that is drawn below.
      selected: the epoch chosen on validation, marked in both panels; None marks nothing.
    """

    def curve(read: Any) -> np.ndarray:
        values = [read(entry) for entry in history]
        array = np.array([np.nan if value is None else float(value) for value in values])
        return np.where(np.isfinite(array), array, np.nan)

    epoch = curve(lambda entry: entry["epoch"])
    train = curve(lambda entry: entry.get("train_loss"))
    loss = curve(lambda entry: (entry.get("validation") or {}).get("loss"))
    value = curve(lambda entry: (entry.get("validation") or {}).get(metric))
    # Markers keep a run of a few epochs visible and would blur one of a hundred.
    dot = {"markersize": 4} if len(epoch) <= 40 else {"markersize": 0}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 5.4), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.plot(epoch, train, color=BLUE, marker="o", label="training loss", **dot)
        upper.plot(
            epoch, loss, color=VERMILION, marker="s", linestyle="--", label="validation loss", **dot
        )
        upper.set_ylabel("loss")
        upper.set_title("Learning curves")
        name = metric.replace("_", " ").replace("f1", "F1")
        lower.plot(epoch, value, color=GREEN, marker="o", label=f"validation {name}", **dot)
        lower.set_ylabel(name)
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        if selected is not None:
            for axes in (upper, lower):
                axes.axvline(selected, color=INK, linewidth=1, linestyle=":", label="_selected")
            here = value[epoch == selected]
            if len(here) and np.isfinite(here[0]):
                lower.plot(
                    [selected],
                    here[:1],
                    color=INK,
                    marker="*",
                    markersize=13,
                    linestyle="none",
                    label=f"selected: epoch {selected}, {here[0]:.3f}",
                )
        for axes in (upper, lower):
            axes.grid(axis="y", color=PALE, linewidth=0.6)
            axes.margins(y=0.12)
            axes.legend(loc="best", fontsize=9)
    return figure


def reliability_diagram(scores: Scores, title: str = "Reliability") -> Figure:
    """See `reliability`."""
    return reliability(scores.bin_count, scores.bin_accuracy, scores.bin_confidence, title)


def reliability(
    count: np.ndarray, accuracy: np.ndarray, confidence: np.ndarray, title: str = "Reliability"
) -> Figure:
    """Accuracy per bin of confidence against the mean confidence there; below, how many.

    A calibrated model's bars end on the diagonal. The hatched gap between bar and mean confidence,
    weighted by the bin's utterances, sums to the expected calibration error in the title.

    Args:
      count, accuracy, confidence: [N] of equal bins of the confidence.
    """
    used, width, total = count > 0, 1 / len(count), int(count.sum())
    right, mean = (float(each @ count) / total for each in (accuracy, confidence))
    error = float(abs(accuracy - confidence) @ count) / total
    centre = (np.arange(len(count)) + 0.5)[used] * width
    count, accuracy, confidence = count[used], accuracy[used], confidence[used]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        upper.bar(centre, accuracy, width, color=SKY, edgecolor="white", label="accuracy")
        upper.bar(
            centre,
            abs(confidence - accuracy),
            width,
            bottom=np.minimum(confidence, accuracy),
            facecolor="none",
            edgecolor=VERMILION,
            hatch="////",
            linewidth=0.8,
            label="gap to mean confidence",
        )
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="calibrated")
        upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        upper.set_title(f"{title}: ECE {error:.1%}, {total} utterances")
        upper.legend(loc="upper left", fontsize=9)
        lower.bar(centre, count, width, color=GREY, edgecolor="white")
        for value, line, text in (
            (mean, "-", f"mean confidence {mean:.1%}"),
            (right, "--", f"accuracy {right:.1%}"),
        ):
            lower.axvline(value, color=INK, linewidth=1.2, linestyle=line, label=text)
        lower.set_xlabel("confidence (probability of the predicted class)")
        lower.set_ylabel("utterances")
        lower.legend(loc="upper left", fontsize=9)
    return figure
