"""Which face an utterance's is: found, followed and chosen by a rule."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from emojax.featurize.faces import follow
from emojax.featurize.media import Picture
from tests.featurize.recordings import blank, face


def film(*pictures: np.ndarray) -> Iterable[Picture]:
    return (Picture(i / 5, each) for i, each in enumerate(pictures))


def two(large: float, small: float) -> np.ndarray:
    """A face on the left and a face on the right."""
    pixels = face(blank(160, 320), (80, 80), large)
    return face(pixels, (240, 80), small)


def test_one_face_is_found_and_cut_out():
    found = follow(film(*[face(blank(), (90, 55), 70)] * 3), 48, "find")
    assert (found.pictures, found.found, found.tracks) == (3, 3, 1)
    assert found.crops.shape == (3, 48, 48, 3)
    column, row, side = found.boxes.mean(0)
    # 10 right of and 5 above the middle, over the shorter side of 120.
    assert column == pytest.approx(10 / 120, abs=0.04)
    assert row == pytest.approx(-5 / 120, abs=0.04)
    assert 0.3 < side < 0.8
    # The crop shows skin in its middle and not the grey around.
    assert found.crops[0, 20:28, 20:28, 0].mean() > 150


def test_without_a_face_there_is_none():
    found = follow(film(blank(), blank()), 48, "find")
    assert (found.pictures, found.found, found.tracks) == (2, 0, 0)
    assert found.crops.shape == (0, 48, 48, 3)
    nothing = follow(film(), 48, "find")
    assert (nothing.pictures, len(nothing.times)) == (0, 0)


@pytest.mark.parametrize(("large", "small", "left"), [(110, 60, True), (60, 110, False)])
def test_of_two_the_larger_is_taken(large, small, left):
    found = follow(film(*[two(large, small)] * 2), 32, "find")
    assert found.tracks == 2
    assert (found.boxes[:, 0] < 0).all() == left


def test_a_lasting_face_wins_over_a_larger_one_that_passes():
    alone = face(blank(160, 320), (80, 80), 90)
    found = follow(film(alone, two(90, 120), alone, alone), 32, "find")
    assert found.tracks == 2
    assert len(found.times) == 4
    assert (found.boxes[:, 0] < 0).all()


def test_a_face_is_followed_over_a_gap_and_as_it_moves():
    walk = [face(blank(160, 320), (100 + 8 * i, 80), 90) for i in range(5)]
    walk[2] = blank(160, 320)
    found = follow(film(*walk), 32, "find")
    assert (found.pictures, found.found, found.tracks, len(found.times)) == (5, 4, 1, 4)
    assert (np.diff(found.boxes[:, 0]) > 0).all()
    np.testing.assert_allclose(found.times, [0, 0.2, 0.6, 0.8])


def test_the_order_of_what_is_found_decides_nothing():
    twins = follow(film(*[two(90, 90)] * 2), 32, "find")
    again = follow(film(*[two(90, 90)] * 2), 32, "find")
    np.testing.assert_array_equal(twins.crops, again.crops)
    np.testing.assert_array_equal(twins.boxes, again.boxes)


def test_a_face_at_the_edge_is_cut_out_whole():
    found = follow(film(face(blank(), (35, 45), 80)), 40, "find")
    assert len(found.times) == 1
    assert found.crops.shape == (1, 40, 40, 3)


def test_whole_pictures_are_cut_to_their_middle():
    pixels = blank(60, 100)
    pixels[:, 20:80] = 200
    found = follow(film(pixels), 30, "whole")
    assert (found.tracks, found.found) == (1, 1)
    np.testing.assert_array_equal(found.crops, 200)
