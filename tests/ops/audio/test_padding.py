"""What is beyond the end of a sound has no influence on anything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.audio.frames import frame_count
from emojax.ops.audio.prosody import ProsodyConfig, fill_unvoiced, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel
from tests.ops.audio.sounds import voice

MEL = MelConfig(size=256, window=200, hop=100, bands=12)
PROSODY = ProsodyConfig(size=512, hop=100, low=100.0)
SAMPLES = 3000


@jax.jit
def heard(x, length):
    return log_mel(x, length, MEL), prosody(x, length, PROSODY)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, SAMPLES), st.integers(0, 9), st.sampled_from([1.0, 1e6, np.inf, np.nan]))
def test_garbage_beyond_the_end_is_not_read(length, seed, garbage):
    x = voice(SAMPLES / 16_000, seed)[None]
    beyond = np.arange(SAMPLES) >= length
    n = np.array([length], np.int32)
    clean = heard(np.where(beyond, 0, x).astype(np.float32), n)
    dirty = heard(np.where(beyond, garbage, x).astype(np.float32), n)
    for a, b in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_a_longer_row_changes_nothing():
    x = voice(0.15)[None]
    n = np.array([x.shape[1]], np.int32)
    count = int(frame_count(jnp.asarray(n), MEL.hop)[0])
    for a, b in zip(heard(x, n), heard(np.pad(x, ((0, 0), (0, 777))), n), strict=True):
        np.testing.assert_allclose(a[:, :count], b[:, :count], rtol=0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=12, max_size=12), st.integers(0, 99))
def test_unvoiced_frames_lie_on_lines_between_voiced_ones(voiced, seed):
    x = np.random.default_rng(seed).normal(size=12).astype(np.float32)
    places = np.flatnonzero(voiced)
    wanted = np.interp(np.arange(12), places, x[places]) if len(places) else np.zeros(12)
    found = jax.jit(fill_unvoiced)(jnp.asarray(x)[None], jnp.asarray([voiced]))[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_silence_is_unvoiced_and_finite():
    x, n = np.zeros((1, 2000), np.float32), np.array([2000], np.int32)
    mel, melody = heard(x, n)
    np.testing.assert_allclose(mel, -100, atol=1e-4)
    assert not np.asarray(melody)[0, :, 1].any()
    assert np.isfinite(melody).all()
