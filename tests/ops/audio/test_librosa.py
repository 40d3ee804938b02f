"""Every audio operator against librosa, computed there in fp64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops.audio.frames import frame_count, frames, window
from emojax.ops.audio.prosody import ProsodyConfig, delta, energy, prosody, yin
from emojax.ops.audio.spectrum import MelConfig, log_mel, mel_filters, stft
from tests.ops.audio.sounds import RATE, pitch, voice

librosa = pytest.importorskip("librosa", reason="librosa is the oracle here (extra `dev`)")

SIZES = [(512, 400, 160), (400, 400, 256), (256, 200, 100)]
"""Samples of a transform, of its window, of a hop; hops that divide neither."""


@pytest.fixture(scope="module")
def sounds():
    """f32[2, S] and the lengths; librosa hears each for itself, without what is beyond."""
    return np.stack([voice(seed=0), voice(seed=1)]), np.array([12_800, 9_001], np.int32)


def each(theirs, sounds):
    x, length = sounds
    return [theirs(row[:n].astype(np.float64)) for row, n in zip(x, length, strict=True)]


def compare(ours, theirs, **tolerance):
    for row, wanted in zip(np.asarray(ours), theirs, strict=True):
        assert np.isfinite(row).all()
        np.testing.assert_allclose(row[: len(wanted)], wanted, **tolerance)


@pytest.mark.parametrize(("size", "width", "hop"), SIZES)
@pytest.mark.parametrize("kind", ["hann", "hamming"])
def test_stft(sounds, size, width, hop, kind):
    ours = jax.jit(functools.partial(stft, size=size, hop=hop, window_size=width, kind=kind))
    theirs = functools.partial(
        librosa.stft, n_fft=size, hop_length=hop, win_length=width, window=kind,
        pad_mode="constant",
    )  # fmt: skip
    compare(ours(*sounds), each(lambda x: theirs(x).T, sounds), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "width", "hop"), SIZES)
def test_log_mel(sounds, size, width, hop):
    config = MelConfig(size=size, window=width, hop=hop, bands=40, low=50.0, high=7600.0)
    ours = jax.jit(functools.partial(log_mel, config=config))(*sounds)

    def theirs(x):
        power = librosa.feature.melspectrogram(
            y=x, sr=RATE, n_fft=size, hop_length=hop, win_length=width, n_mels=40, fmin=50,
            fmax=7600, pad_mode="constant",
        )  # fmt: skip
        return librosa.power_to_db(power, amin=config.floor, top_db=None).T

    compare(ours, each(theirs, sounds), rtol=1e-4, atol=1e-4)


def test_mel_filters():
    config = MelConfig(size=512, bands=64, low=0.0, high=8000.0)
    theirs = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=64, fmin=0, fmax=8000).T
    np.testing.assert_allclose(mel_filters(config), theirs, rtol=1e-4, atol=1e-7)


def test_yin(sounds):
    c = ProsodyConfig()
    ours = functools.partial(
        yin, rate=c.rate, size=c.size, hop=c.hop, low=c.low, high=c.high, trough=c.trough
    )
    f0, aperiodicity = jax.jit(ours)(*sounds)
    theirs = each(
        lambda x: librosa.yin(
            x, fmin=c.low, fmax=c.high, sr=RATE, frame_length=c.size, hop_length=c.hop
        ),
        sounds,
    )
    for row, wanted, noise in zip(np.asarray(f0), theirs, np.asarray(aperiodicity), strict=True):
        voiced = noise[: len(wanted)] < c.voiced
        assert voiced.mean() > 0.8
        np.testing.assert_allclose(row[: len(wanted)][voiced], wanted[voiced], rtol=1e-4)


def test_energy(sounds):
    ours = jax.jit(functools.partial(energy, size=400, hop=160))(*sounds)
    theirs = each(
        lambda x: librosa.feature.rms(
            y=x, frame_length=400, hop_length=160, pad_mode="constant", dtype=np.float64
        )[0],
        sounds,
    )
    compare(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_deltas(order):
    x = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    count = np.array([30, 17], np.int32)
    ours = np.asarray(jax.jit(functools.partial(delta, width=9, order=order))(x, count))
    for row, found, n in zip(x, ours, count, strict=True):
        wanted = librosa.feature.delta(
            row[:n].astype(np.float64).T, width=9, order=order, mode="nearest"
        )
        np.testing.assert_allclose(found[:n], wanted.T, rtol=0, atol=1e-5)


def test_frames_are_librosas(sounds):
    x, length = sounds[0], jnp.asarray(sounds[1])
    found = np.asarray(jax.jit(functools.partial(frames, size=300, hop=128))(x, length))
    padded = np.pad(x[0], 150)
    np.testing.assert_array_equal(
        found[0], librosa.util.frame(padded, frame_length=300, hop_length=128).T
    )
    assert frame_count(length, 128).tolist() == [101, 71]


def test_windows_are_scipys():
    from scipy.signal import get_window

    for kind in ("hann", "hamming"):
        np.testing.assert_allclose(window(kind, 399), get_window(kind, 399), atol=1e-7)
    np.testing.assert_array_equal(window("rectangular", 5), np.ones(5))


def test_prosody_of_a_glide():
    """Pitch follows the formula of the tone; its delta says where it goes."""
    c, x = ProsodyConfig(), voice(noise=0.0)[None]
    length = np.array([x.shape[1]], np.int32)
    found = np.asarray(jax.jit(functools.partial(prosody, config=c))(x, length))[0]
    time = np.arange(len(found)) * c.hop / c.rate
    wanted = np.log2(pitch(time) / 100)
    inside = slice(5, -5)
    assert found[inside, 1].all()
    np.testing.assert_allclose(found[inside, 0], wanted[inside], atol=0.02)
    slope = np.gradient(wanted)[inside].mean()
    assert found[inside, 4].mean() == pytest.approx(slope, rel=0.05)
