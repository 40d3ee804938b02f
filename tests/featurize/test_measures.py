"""Features follow pitch, level and expression, and not what they must not follow."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from emojax.data.wav import resampled
from emojax.featurize import measures
from emojax.featurize.faces import follow
from emojax.featurize.media import Picture
from emojax.interop.vision import read_vision_encoder
from tests.featurize.recordings import RATE, blank, face, tone
from tests.goldens.make_mobilenet import FOLDER

PITCH = measures.AUDIO_WIDTH - 36
"""Where the mean of pitch is, in octaves above 100 Hz."""


def test_sound_is_measured_in_octaves_and_decibels():
    found = {hertz: measures.audio_features(tone(1, hertz), RATE) for hertz in (100, 200)}
    for hertz, features in found.items():
        assert features.shape == (measures.AUDIO_WIDTH,)
        assert features.dtype == np.float32
        assert features[PITCH] == pytest.approx(np.log2(hertz / 100), abs=0.02)
    quiet = measures.audio_features(0.1 * tone(1, 200), RATE)
    energy = PITCH + 3 * 6
    assert found[200][energy] - quiet[energy] == pytest.approx(20, abs=0.2)


def test_the_rate_of_a_recording_matters_little():
    sound = tone(1.3, 150)
    plain = measures.audio_features(sound, RATE)
    other = measures.audio_features(resampled(sound, RATE, 48_000), 48_000)
    # The bands below 4 kHz, where both have something.
    np.testing.assert_allclose(other[:40], plain[:40], atol=1.5)
    assert other[PITCH] == pytest.approx(plain[PITCH], abs=0.01)


@pytest.mark.parametrize("seconds", [0.1, 0.9999, 1.0, 1.0001, 2.5])
def test_any_length_is_measured(seconds: float):
    features = measures.audio_features(tone(seconds), RATE)
    assert np.isfinite(features).all()
    noise = np.random.default_rng(0).normal(size=round(seconds * RATE)).astype(np.float32)
    assert np.isfinite(measures.audio_features(0.1 * noise, RATE)).all()


def test_frames_of_sound_say_what_came_first():
    rising = np.concatenate([tone(0.5, 100), tone(0.5, 200)])
    rising[: len(rising) // 2] *= 0.1
    found = measures.audio_features(rising, RATE, 4)
    assert found.shape == (measures.audio_width(4),) == (4 * 70,)
    pitch, energy = found.reshape(4, 70)[:, [measures.BANDS, measures.BANDS + 3]].T
    np.testing.assert_allclose(pitch, [0, 0, 1, 1], atol=0.15)
    assert energy[3] - energy[0] == pytest.approx(20, abs=1)
    # Pitch where there is a voice, before and after as well.
    hummed = np.concatenate([np.zeros(RATE // 2, np.float32), tone(0.5, 200)])
    assert measures.audio_features(hummed, RATE, 4).reshape(4, 70)[0, 64] == pytest.approx(
        1, abs=0.1
    )
    assert np.isfinite(measures.audio_features(tone(0.1), RATE, 64)).all()


@hypothesis.given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(1, 6), st.integers(0, 1000)
)
def test_spans_hold_means_of_what_fell_into_them_or_what_is_nearest(times, count, seed):
    at, edges = np.sort(times), np.linspace(0, 1, count + 1)
    x = np.random.default_rng(seed).normal(size=(len(at), 3))
    found = measures.over_spans(x, at, edges)
    for k, row in enumerate(found):
        last = at <= edges[k + 1] if k == count - 1 else at < edges[k + 1]
        inside = x[(at >= edges[k]) & last]
        if len(inside):
            np.testing.assert_allclose(row, inside.mean(0), atol=1e-12)
        else:
            distance = np.abs(at - edges[k : k + 2].mean())
            nearest = x[distance <= distance.min() + 1e-12]
            assert (np.abs(nearest - row).max(1) < 1e-12).any()


def test_frames_of_a_face_say_what_came_first():
    face_ = seen(0, 0, 1, 1)
    found = measures.visual_features(face_, None, np.linspace(0, 0.8, 3))
    assert found.shape == (measures.visual_width(None, 2),) == (measures.PLAIN_WIDTH,)
    rows = measures.plain_measures(face_)
    np.testing.assert_allclose(
        found.reshape(2, -1), [rows[:2].mean(0), rows[2:].mean(0)], atol=1e-6
    )
    assert np.abs(found.reshape(2, -1)[0] - found.reshape(2, -1)[1]).max() > 0.05


def seen(*mouths: float, light: float = 1.0):
    pictures = [(face(blank(), (80, 60), 80, mouth) * light).astype(np.uint8) for mouth in mouths]
    film = (Picture(i / 5, each) for i, each in enumerate(pictures))
    return follow(film, measures.SIZE, "whole")


def test_plain_measures_see_a_mouth_and_whether_it_moves():
    still, open_, moving = seen(0, 0, 0), seen(1, 1, 1), seen(0, 1, 0)
    features = [measures.visual_features(each, None) for each in (still, open_, moving)]
    assert {each.shape for each in features} == {(measures.PLAIN_WIDTH,)}
    half = measures.PLAIN_WIDTH // 2
    change = slice(half - 16, half)
    np.testing.assert_array_equal(features[0][change], 0)
    # Movement lies in the lower half of the face, where the mouth is.
    moved = features[2][change].reshape(4, 4)
    assert moved[2:].sum() > 2 * moved[:2].sum()
    assert np.abs(features[0] - features[1]).max() > 0.05


def test_plain_measures_but_brightness_do_not_follow_the_lamp():
    bright, dim = (
        measures.plain_measures(seen(0.3, light=light)) for light in (1.0, 0.6)
    )  # fmt: skip
    assert bright[0, 3] > 1.5 * dim[0, 3]
    np.testing.assert_allclose(dim[:, 5:], bright[:, 5:], atol=0.05)


def test_an_encoders_features_are_pooled():
    encoder = read_vision_encoder(FOLDER / "model.safetensors", 32)
    pictures = [face(blank(), (80, 60), 80, mouth) for mouth in (0, 1)]
    found = follow((Picture(float(i), x) for i, x in enumerate(pictures)), 32, "whole")
    features = measures.visual_features(found, encoder)
    assert features.shape == (measures.visual_width(encoder),) == (2 * encoder.width,)
    rows = encoder.encode(found.crops)
    np.testing.assert_allclose(features[: encoder.width], rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(features[encoder.width :], rows.std(0), atol=1e-6)
