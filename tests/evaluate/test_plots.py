"""The pictures' artists carry the numbers they should; odd names neither break nor mislead them."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib import image

from emojax.evaluate import plots
from emojax.evaluate.metrics import BINS, score
from emojax.evaluate.timeline import timeline
from tests.evaluate.samples import LABELS, predict, sample

HOSTILE = ("$\\frac$", "<script>alert(1)</script>", "_hidden", "悲しい\ud800\x00\n🙂")


@pytest.fixture(scope="module")
def scores():
    return score(sample(20, seed=4), 4)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_confusion_cells_hold_shares_and_counts(scores):
    axes = plots.confusion_matrix(scores, LABELS).axes[0]
    share = scores.confusion / scores.confusion.sum(1, keepdims=True)
    np.testing.assert_allclose(axes.images[0].get_array(), share)
    found = {text.get_position(): text.get_text() for text in axes.texts}
    for row, column in np.ndindex(4, 4):
        expected = f"{share[row, column]:.0%}\n{scores.confusion[row, column]}"
        assert found[(column, row)] == expected
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ticks == [f"{n} ({s})" for n, s in zip(LABELS, scores.support, strict=True)]


def test_a_class_that_never_occurs_has_an_empty_row():
    scores = score([predict([0, 0], [[0.2, 0.8, 0], [0.9, 0.1, 0]])], 3)
    axes = plots.confusion_matrix(scores, LABELS[:3]).axes[0]
    assert axes.images[0].get_array().mask.tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert len(axes.texts) == 3


def test_learning_curves_hold_the_history_and_mark_the_selected_epoch():
    history = [
        {
            "epoch": epoch,
            "train_loss": 2.0 / epoch,
            "validation": {"loss": 1.5 / epoch, "macro_f1": 0.1 * epoch},
        }
        for epoch in range(1, 6)
    ]
    history[2]["train_loss"] = float("inf")
    history[3]["validation"] = None
    upper, lower = plots.learning_curves(history, "macro_f1", selected=2).axes
    lines = {line.get_label(): line for axes in (upper, lower) for line in axes.lines}
    np.testing.assert_allclose(
        lines["training loss"].get_ydata(), [2, 1, np.nan, 0.5, 0.4], equal_nan=True
    )
    np.testing.assert_allclose(
        lines["validation loss"].get_ydata(), [1.5, 0.75, 0.5, np.nan, 0.3], equal_nan=True
    )
    np.testing.assert_allclose(
        lines["validation macro F1"].get_ydata(), [0.1, 0.2, 0.3, np.nan, 0.5], equal_nan=True
    )
    assert lines["validation macro F1"].get_xdata().tolist() == [1, 2, 3, 4, 5]
    star = lines["selected: epoch 2, 0.200"]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 0.2)
    assert all(2 in axes.lines[-1 if axes is upper else -2].get_xdata() for axes in (upper, lower))


def test_reliability_bars_hold_accuracy_and_gap(scores):
    upper, lower = plots.reliability_diagram(scores).axes
    used = np.flatnonzero(scores.bin_count)
    accuracy, gap = upper.containers
    for bar, rest, count, b in zip(accuracy, gap, lower.containers[0], used, strict=True):
        assert bar.get_x() == pytest.approx(b / BINS)
        assert bar.get_height() == scores.bin_accuracy[b]
        ends = {rest.get_y(), rest.get_y() + rest.get_height()}
        assert sorted(ends) == pytest.approx(
            sorted({scores.bin_accuracy[b], scores.bin_confidence[b]})
        )
        assert count.get_height() == scores.bin_count[b]
    # The gaps, weighted by their bins, are the error that the title tells.
    weighted = sum(g.get_height() * n.get_height() for g, n in zip(gap, lower.patches, strict=True))
    assert weighted / scores.utterances == pytest.approx(scores.ece)
    assert f"ECE {scores.ece:.1%}" in upper.get_title(loc="left")


def test_pictures_are_pictures_and_the_same_every_time(scores):
    def draw(format):
        return plots.render(plots.reliability_diagram(scores), format)

    assert draw("png") == draw("png")
    assert draw("svg") == draw("svg")
    pixels = image.imread(io.BytesIO(draw("png")))
    assert pixels.shape[:2] == (960, 960)
    assert pixels.std() > 0.1
    root = ElementTree.fromstring(draw("svg"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"


def test_a_themed_picture_has_ink_and_paper_of_its_readers_scheme(scores):
    plain = plots.render(plots.reliability_diagram(scores), "svg")
    found = plots.themed(plain).decode()
    root = ElementTree.fromstring(found)
    (style,) = [e for e in root.iter() if e.tag.endswith("style") and "--c0" in (e.text or "")]
    assert "@media(prefers-color-scheme:dark)" in style.text
    drawn = found.replace(style.text, "")
    for number, (light, dark) in enumerate(plots.DARK.items()):
        assert f"--c{number}:{light};" in style.text
        assert f"--c{number}:{dark};" in style.text
        assert light not in drawn
        assert f"var(--c{number})" in drawn or light.encode() not in plain
    # Nothing is left to the default, which is black in either scheme.
    assert "#000000" not in drawn
    assert plots.BLUE.lower() in drawn or plots.SKY.lower() in drawn


def test_odd_names_are_drawn_as_they_are():
    predictions = sample(3, seed=1)
    scores = score(predictions, 4)
    figures = [
        plots.confusion_matrix(scores, HOSTILE, "$x"),
        timeline(predictions[0], HOSTILE, ("$\\alpha", "_", "x" * 400)),
    ]
    for figure in figures:
        assert plots.render(figure, "png").startswith(b"\x89PNG")
        ElementTree.fromstring(plots.render(figure, "svg"))
    ticks = [tick.get_text() for tick in figures[0].axes[0].get_xticklabels()]
    assert ticks[0] == "$\\frac$"
    legend = [text.get_text() for text in figures[1].legends[0].get_texts()]
    assert len(legend) == 4
    assert legend[2].endswith("_hidden")


def test_names_are_cut_to_a_printable_line():
    assert plots.clean("a\x00b\nc\t d") == "a b c d"
    assert plots.clean("x" * 30) == "x" * 17 + "…"


def test_nothing_global_is_touched(scores):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plots.render(plots.confusion_matrix(scores, LABELS))
    assert dict(matplotlib.rcParams) == before
