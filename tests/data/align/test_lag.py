"""Lags that are known are found, and streams come back into step."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.data.align.lag import METHODS, Pair, estimate_lags, shifted
from emojax.data.align.series import loudness, mouth_opening
from emojax.errors import DataError

FPS = 25.0


def pair(lag: int, seed: int, length: int = 300, noise: float = 0.3) -> Pair:
    """A voice of syllables, and a face that repeats it `lag` frames later at that noise."""
    draw = np.random.default_rng(seed)
    long = np.convolve(draw.normal(size=length + 200), np.hanning(7), "valid")
    long /= long.std()
    voice = long[90 : 90 + length]
    face = long[90 - lag : 90 - lag + length]
    return Pair.of(*(-20 + 5 * (x + noise * draw.normal(size=length)) for x in (voice, face)))


@pytest.mark.parametrize("method", METHODS)
def test_lags_either_way_are_found_to_a_frame(method):
    lags = [-40, -3, 0, 5, 17, 50]
    found = estimate_lags([pair(lag, seed) for seed, lag in enumerate(lags)], FPS, method=method)
    np.testing.assert_allclose([each.frames for each in found], lags, atol=1)
    for each in found:
        assert each.seconds == pytest.approx(each.frames / FPS)
    least = {"correlation": 0.7, "soft_dtw": 2.0}[method]
    assert min(each.score for each in found) > least


@pytest.mark.parametrize("method", METHODS)
def test_frames_that_are_missing_do_not_mislead(method):
    whole = pair(12, 1, length=400)
    draw = np.random.default_rng(2)
    lost = draw.random(400) < 0.2
    lost[100:150] = True
    face = np.where(lost, 1e6, whole.face)
    voice_lost = np.arange(400) > 360
    voice = np.where(voice_lost, np.nan, whole.voice)
    found = estimate_lags([Pair.of(voice, face, face_present=~lost)], FPS, method=method)[0]
    assert found.frames == pytest.approx(12, abs=1)


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_can_be_compared_there_is_no_lag(method):
    flat, short = pair(5, 0), pair(5, 1, length=30)
    empty = dataclasses.replace(flat, face_present=np.zeros(300, bool))
    flat = dataclasses.replace(flat, face=np.full(300, 3.0, np.float32))
    for found in estimate_lags([flat, empty, short], FPS, method=method):
        assert (found.seconds, found.frames, found.score) == (0, 0, 0)
    assert estimate_lags([], FPS, method=method) == []


def test_batch_mates_do_not_matter():
    pairs = [pair(lag, lag, length=200 + 40 * lag) for lag in range(8)]
    together = estimate_lags(pairs, FPS)
    for each, alone in zip(pairs, together, strict=True):
        assert estimate_lags([each], FPS)[0].frames == pytest.approx(alone.frames, abs=1e-3)


def test_series_of_different_lengths_are_refused():
    bad = dataclasses.replace(pair(0, 0), face=np.zeros(9, np.float32))
    with pytest.raises(DataError, match=r"conversation 'd1'.*series of 9 and 300 frames"):
        estimate_lags([bad], FPS, names=["d1"])


@given(st.integers(1, 12), st.floats(-1, 1), st.integers(0, 99))
def test_shifting_puts_each_frame_where_it_belongs(length, lag, seed):
    draw = np.random.default_rng(seed)
    frames, present = draw.normal(size=(length, 2)), draw.random(length) < 0.8
    moved, there = shifted(frames, present, lag, FPS)
    by = round(lag * FPS)
    for t in range(length):
        known = 0 <= t + by < length and present[t + by]
        assert there[t] == known
        np.testing.assert_array_equal(moved[t], frames[t + by] if known else 0)


def test_loudness_is_the_level_around_each_frame():
    rate, t = 8000, np.arange(8000) / 8000
    sound = np.sin(2 * np.pi * 400 * t) * np.where(t < 0.5, 1.0, 0.01)
    found = loudness(sound, rate, FPS, 30)
    np.testing.assert_allclose(found[:12], -3.01, atol=0.05)
    np.testing.assert_allclose(found[14:24], -43.01, atol=0.05)
    assert (found[26:] == -80).all()


def test_an_open_mouth_is_dark_whatever_the_skin():
    rows, columns = np.mgrid[:64, :64]
    found = []
    for skin in (220, 110):
        faces = np.full((5, 64, 64, 3), skin, np.uint8)
        for k in range(5):
            faces[k, (abs(rows - 46) <= 1.5 * k) & (abs(columns - 32) <= 9)] = (skin // 5, 8, 8)
        found.append(mouth_opening(faces))
        assert (np.diff(found[-1]) > 0.03).all()
    np.testing.assert_allclose(*found, atol=0.03)
