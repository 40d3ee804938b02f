"""What the variants scored, beside what could be known at most and what a guess scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from emojax.data.media_simulator.scene import Scene, posterior
from emojax.evaluate.plots import GREY, INK, PALE, STYLE, clean
from emojax.types import MODALITIES, Prediction
from experiments.end_to_end.corpus import Recordings
from experiments.end_to_end.train import NAMES, REFERENCE, VARIANTS, scores_of
from experiments.sheet import Sheet, spread
from experiments.store import Result
from experiments.tables import Row, compare, difference

HEADER = (
    "", "seeds", "parameters", "weighted F1, %", "accuracy, %", "NLL, nats",
    "accuracy less that of the first row", "p (bootstrap)",
)  # fmt: skip
NOTE = (
    "Test scores of the epochs that validation chose, mean ± sample deviation over seeds of the "
    "training, none dropped; differences paired by seed, with intervals over resampled "
    "conversations and p values corrected by Holm. Exact posteriors are of what the recordings "
    "were made from (words, and numbers behind voices and faces), not of sound and pixels: nobody "
    "is better on average. The guess is the commonest emotion of the training conversations."
)


def limits(recordings: Recordings) -> dict[str, dict[str, float]]:
    """Test scores of exact posteriors and of the guess, by what they know."""
    scenes = recordings.split(recordings.scenes())
    classes = len(recordings.media.process.labels)
    told = {"all modalities": MODALITIES} | {NAMES[m]: (m,) for m in MODALITIES}

    def known(each: Scene, of: Sequence[str]) -> np.ndarray:
        return posterior(each, recordings.media, of)[0]

    found = {
        f"exact posterior, {name}": [_prediction(s, known(s, of)) for s in scenes["test"]]
        for name, of in told.items()
    }
    share = np.bincount(np.concatenate([s.emotion for s in scenes["train"]]), minlength=classes)
    share = share / share.sum()
    guess = [_prediction(s, np.tile(share, (len(s), 1))) for s in scenes["test"]]
    found["commonest emotion"] = guess
    return {name: scores_of(each, classes) for name, each in found.items()}


def _prediction(scene: Scene, probability: np.ndarray) -> Prediction:
    size = len(scene)
    return Prediction(
        id=scene.id, probability=probability, contribution=np.zeros((size, 3), np.float32),
        present=np.ones((size, 3), bool), speaker=scene.speaker, label=scene.emotion,
        transcript=scene.text,
    )  # fmt: skip


def rows_of(results: Sequence[Result]) -> list[Row]:
    return compare(results, list(VARIANTS), REFERENCE)


def sheet(rows: Sequence[Row], known: Mapping[str, Mapping[str, float]]) -> Sheet:
    cells = [
        [
            row.variant, str(row.seeds), f"{row.parameters:,}", spread(row.percent("weighted_f1")),
            spread(row.percent("accuracy")), spread(row.values["nll"], 3), *difference(row),
        ]
        for row in rows
    ]  # fmt: skip
    cells += [
        [name, "", "", f"{100 * each['weighted_f1']:.1f}", f"{100 * each['accuracy']:.1f}",
         f"{each['nll']:.3f}", "", ""]
        for name, each in known.items()
    ]  # fmt: skip
    return Sheet("End to end on simulated recordings", HEADER, cells, NOTE)


def figure(rows: Sequence[Row], known: Mapping[str, Mapping[str, float]]) -> Figure:
    """Weighted F1 of every seed, its mean, and the limit of what the variant knows."""
    of = {"trimodal": "all modalities"}
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(7, 1.2 + 0.32 * len(rows)), layout="constrained")
        axes = drawn.add_subplot()
        for y, row in enumerate(reversed(rows)):
            each, subject = row.percent("weighted_f1"), row.variant.split(",")[0]
            limit = known[f"exact posterior, {of.get(subject, subject)}"]
            axes.plot(each, [y] * len(each), "o", color=GREY, markersize=4, alpha=0.6)
            axes.plot(each.mean(), y, "|", color=INK, markersize=16, mew=2)
            axes.plot(100 * limit["weighted_f1"], y, "<", color=INK, markersize=5, fillstyle="none")
        axes.set_yticks(range(len(rows)), [clean(row.variant, 40) for row in reversed(rows)])
        axes.set(
            xlabel="test weighted F1, % (dot: a seed; line: mean; triangle: exact posterior)",
            ylim=(-0.6, len(rows) - 0.4),
        )  # fmt: skip
        axes.grid(axis="x", color=PALE, linewidth=0.6)
    return drawn
