"""The timeline's cells, marks, bars and letters against the prediction they show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color

from emojax.evaluate.decisions import decide
from emojax.evaluate.timeline import FILLS, LANES, LONGEST, PER_ROW, abbreviations, timeline
from tests.evaluate.samples import LABELS, SPEAKERS, predict, sample

LETTERS = {-1: "–", 0: "T", 1: "A", 2: "V"}


def panels(figure, kind):
    return [axes for axes in figure.axes if axes.get_label().split()[0] == kind]


def conversation(L, S=3, seed=0):
    return dataclasses.replace(
        sample(1, lengths=(L, L), seed=seed, unlabelled=0.15)[0],
        speaker=np.random.default_rng(seed).integers(0, S, L),
    )


@pytest.mark.parametrize("L", [1, 9, PER_ROW, PER_ROW + 1, 110])
def test_every_utterance_is_drawn_with_its_own_numbers(L):
    prediction = conversation(L)
    decision = decide(prediction)
    short = abbreviations(LABELS)
    figure = timeline(prediction, LABELS, SPEAKERS)

    cells, marks, confidence, numbers = {}, set(), {}, {}
    for axes in panels(figure, "emotions"):
        rows = sorted({text.get_position()[1] for text in axes.texts})
        for text in axes.texts:
            x, y = text.get_position()
            cells[(x, rows.index(y))] = text.get_text()
        marks |= {line.get_xdata()[0] for line in axes.lines if line.get_gid() == "mistake"}
    for axes in panels(figure, "confidence"):
        for bar in axes.containers[0]:
            x = round(bar.get_x() + bar.get_width() / 2)
            confidence[x] = (bar.get_height(), bar.get_hatch() is not None)
    for axes in panels(figure, "modality"):
        for tick, x in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True):
            numbers[x] = tick.get_text()

    wrong = {i + 1 for i in range(L) if decision.scored[i] and not decision.correct[i]}
    assert marks == wrong
    assert set(confidence) == set(numbers) == set(range(1, L + 1))
    for i in range(L):
        label = prediction.label[i]
        assert cells[(i + 1, 0)] == (short[label] if label >= 0 else "–")
        assert cells[(i + 1, 1)] == short[decision.predicted[i]]
        assert confidence[i + 1] == (decision.confidence[i], i + 1 in wrong)
        assert numbers[i + 1] == f"{LETTERS[decision.modality[i]]}\n{i + 1}"


def test_cells_are_coloured_by_emotion_and_framed_at_mistakes():
    prediction = predict([0, 1, -1], [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]])
    axes = panels(timeline(prediction, ("neg", "pos"), SPEAKERS), "emotions")[0]
    cells = [patch for patch in axes.patches if patch.get_gid() == "cell"]
    true, predicted = cells[0::2], cells[1::2]
    for cell, fill in zip(true, (FILLS[0], FILLS[1], "white"), strict=True):
        assert same_color(cell.get_facecolor(), fill)
    for cell, fill in zip(predicted, (FILLS[0], FILLS[0], FILLS[1]), strict=True):
        assert same_color(cell.get_facecolor(), fill)
    heavy = [cell.get_linewidth() > 1 for cell in predicted]
    assert heavy == [False, True, False]


def test_modality_bars_stack_shares_and_hatch_what_argues_against():
    prediction = dataclasses.replace(
        predict([0, 0, 0], [[1.0, 0.0]] * 3),
        contribution=np.array([[0.6, -0.2, 0.2], [0.5, 0.5, 9.0], [0, 0, 0]], np.float32),
        present=np.array([[1, 1, 1], [1, 1, 0], [1, 1, 1]], bool),
    )
    axes = panels(timeline(prediction, ("neg", "pos"), SPEAKERS), "modality")[0]
    bars = [list(container) for container in axes.containers]
    heights = np.array([[bar.get_height() for bar in modality] for modality in bars])
    np.testing.assert_allclose(heights.T, [[0.6, 0.2, 0.2], [0.5, 0.5, 0], [0, 0, 0]], atol=1e-6)
    bottoms = np.array([[bar.get_y() for bar in modality] for modality in bars])
    np.testing.assert_allclose(bottoms[:, 0], [0, 0.6, 0.8], atol=1e-6)
    assert [bar[0].get_hatch() is not None for bar in bars] == [False, True, False]


def test_speakers_have_lanes_in_order_of_appearance_and_the_rest_share_one():
    S = LANES + 3
    speaker = np.array([*range(S), *range(LANES)])
    prediction = dataclasses.replace(conversation(len(speaker)), speaker=speaker)
    figure = timeline(prediction, LABELS, [f"speaker {s}" for s in range(S)])
    axes = panels(figure, "emotions")[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert names[: LANES + 1] == [*(f"speaker {s}" for s in range(LANES)), "3 others"]
    heights = [p.get_y() + p.get_height() / 2 for p in axes.patches if p.get_gid() == "lane"]
    ticks = axes.get_yticks()
    expected = [ticks[min(s, LANES)] for s in speaker]
    np.testing.assert_allclose(heights, expected)


def test_an_endless_conversation_is_cut_and_says_so():
    figure = timeline(conversation(LONGEST + 1), LABELS, SPEAKERS)
    assert f"first {LONGEST} of {LONGEST + 1} utterances" in figure.texts[0].get_text()
    drawn = sum(len(axes.containers[0]) for axes in panels(figure, "confidence"))
    assert drawn == LONGEST


@pytest.mark.parametrize("L", [1, 30, 110])
def test_no_text_leaves_the_picture_or_covers_another(L):
    figure = timeline(conversation(L), LABELS, ("Ann", "W" * 60, "Cy"))
    FigureCanvasAgg(figure).draw()
    size = figure.bbox
    for axes in figure.axes:
        labels = [*axes.get_yticklabels(), *axes.get_xticklabels(), *axes.texts]
        boxes = [text.get_window_extent() for text in labels if text.get_text()]
        for index, box in enumerate(boxes):
            assert 0 <= box.x0 < box.x1 <= size.width
            assert 0 <= box.y0 < box.y1 <= size.height
            covered = [other for other in boxes[index + 1 :] if _overlap(box, other)]
            assert not covered
    heads = [figure.texts[0].get_window_extent(), *(x.get_window_extent() for x in figure.legends)]
    assert not any(_overlap(a, b) for i, a in enumerate(heads) for b in heads[i + 1 :])
    assert all(box.x1 <= size.width for box in heads)


def _overlap(a, b):
    """Whether two boxes share more than a rim of one pixel."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width > 1 and height > 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, ["hap", "sad", "neu", "ang"]),
        (("sad", "sadness"), ["sad", "sadn"]),
        (("anger", "angry"), ["ange", "angr"]),
        (("sadness low", "sadness high"), ["s0", "s1"]),
        (("", "\n"), ["?0", "?1"]),
    ],
)
def test_abbreviations_tell_labels_apart(labels, expected):
    assert abbreviations(labels) == expected


def test_weights_of_a_model_that_has_them_are_stacked():
    prediction = conversation(PER_ROW + 3)
    assert not panels(timeline(prediction, LABELS, SPEAKERS), "weights")
    weights = np.random.default_rng(0).dirichlet(np.ones(3), len(prediction.label))
    weighed = dataclasses.replace(prediction, weights=weights)
    drawn = np.zeros_like(weights)
    for axes in panels(timeline(weighed, LABELS, SPEAKERS), "weights"):
        for modality, bars in enumerate(axes.containers):
            for bar in bars:
                drawn[round(bar.get_x() + bar.get_width() / 2) - 1, modality] = bar.get_height()
    np.testing.assert_allclose(drawn, weights)


def test_contradictions_are_bars_and_dashes_where_there_are_no_words():
    prediction = conversation(PER_ROW + 3)
    assert not panels(timeline(prediction, LABELS, SPEAKERS), "contradiction")
    heard = prediction.present[:, 0]
    drawn = np.random.default_rng(0).random(len(heard)).astype(np.float32)
    value = np.where(heard, drawn, np.nan).astype(np.float32)
    found, dashes = np.full(len(heard), np.nan), np.zeros(len(heard), bool)
    figure = timeline(dataclasses.replace(prediction, contradiction=value), LABELS, SPEAKERS)
    for axes in panels(figure, "contradiction"):
        for bar in axes.containers[0]:
            found[round(bar.get_x() + bar.get_width() / 2) - 1] = bar.get_height()
        for text in axes.texts:
            if text.get_text() == "–":
                dashes[round(text.get_position()[0]) - 1] = True
    np.testing.assert_allclose(found, value)
    np.testing.assert_array_equal(dashes, ~heard)
    assert 0 < dashes.sum() < len(dashes)
