"""What a model hears of the recordings: measured once, altered while training, standardised.

N utterances of the corpus, n of a batch, T frames, F mel bands, P measures of prosody.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from emojax.ops.audio.augment import resample
from emojax.ops.audio.frames import frame_count, within
from emojax.ops.audio.prosody import ProsodyConfig, delta, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel

# Nothing is above 7.3 kHz in these recordings.
MEL = MelConfig(hop=320, bands=48, high=7200.0)
PROSODY = ProsodyConfig(hop=320, delta=5)
BANDS_A_FACTOR = 16.6
"""Above 1 kHz, where mel is logarithmic: bands by which a factor e on frequency moves a sound."""
FLOOR = -70.0
"""dB below which recordings hold nothing but their rooms."""


class Sounds(NamedTuple):
    """What every lane reads: f32[N, T, F] dB, f32[N, T, P], frames i32[N], label i32[N]."""

    mel: Any
    prosody: Any
    count: Any
    label: Any


@jax.jit
def _measure(samples: Array, length: Array) -> tuple[Array, Array]:
    x = samples.astype(jnp.float32) / 32768
    return log_mel(x, length, MEL), prosody(x, length, PROSODY)


def hear(samples: np.ndarray, length: np.ndarray, label: np.ndarray, at_once: int = 64) -> Sounds:
    """Log-mel and prosody of all utterances."""
    spare = -len(samples) % at_once
    samples = np.pad(samples, ((0, spare), (0, 0)))
    padded = np.pad(length, (0, spare))
    parts = [
        _measure(samples[i : i + at_once], padded[i : i + at_once])
        for i in range(0, len(samples), at_once)
    ]
    mel, melody = (jnp.concatenate(each)[: len(label)] for each in zip(*parts, strict=True))
    count = frame_count(jnp.asarray(length), MEL.hop)
    return Sounds(jnp.maximum(mel, FLOOR), melody, count, jnp.asarray(label))


class Statistics(NamedTuple):
    """Mean and deviation over the frames a lane trains on, f32[F] and f32[P].

    A band whose level hardly ever changes is not blown up: deviations are of 1 dB at least.
    """

    mel: tuple[Any, Any]
    prosody: tuple[Any, Any]


def statistics(sounds: Sounds, weight: Array) -> Statistics:
    def of(x: Array, least: float) -> tuple[Array, Array]:
        real = within(sounds.count, x.shape[1])[..., None]
        share = (weight > 0) / jnp.maximum(((weight > 0) * sounds.count).sum(), 1)
        mean = jnp.einsum("n,ntf->f", share, jnp.where(real, x, 0), precision="highest")
        apart = jnp.where(real, jnp.square(x - mean), 0)
        return mean, jnp.sqrt(jnp.einsum("n,ntf->f", share, apart, precision="highest") + least**2)

    return Statistics(of(sounds.mel, 1.0), of(sounds.prosody, 1e-3))


class Change(NamedTuple):
    """How an utterance is altered; each a number, or one for each band.

    Attributes:
      tempo: factor on it.
      start: share of what does not fit into T frames that is cut off before.
      bands: by how many formants move up.
      level: dB added to each band.
      noise: dB of noise in each band; the floor is none.
      pitch: octaves.
    """

    tempo: Any
    start: Any
    bands: Any
    level: Any
    noise: Any
    pitch: Any


def altered(mel: Array, melody: Array, count: Array, change: Change) -> tuple[Array, Array, Array]:
    """One utterance as another voice in another place might have said it."""
    size = mel.shape[0]
    wanted = count / change.tempo
    kept = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), size)
    start = change.start * jnp.maximum(wanted - size, 0) * change.tempo
    mel, melody = (resample(x, start, change.tempo) for x in (mel, melody))
    mel = resample(mel, -change.bands, 1.0, axis=1) + change.level
    unit = np.log(10) / 10
    mel = jnp.logaddexp(mel * unit, change.noise * unit) / unit
    faster = jnp.stack([1.0, 1.0, 1.0, 1.0, change.tempo, change.tempo])
    louder = jnp.stack([change.pitch, 0.0, 0.0, change.level.mean(), 0.0, 0.0])
    return mel, melody * faster + louder, kept


def versions() -> Change:
    """How each utterance is heard when a model is asked: as it is, and a little otherwise."""
    tempo = np.array([1.0, 0.9, 1.1, 1.0, 1.0], np.float32)
    voice = np.array([0.0, 0.0, 0.0, -0.06, 0.06], np.float32)
    zero = np.zeros(len(tempo), np.float32)
    level = np.zeros((len(tempo), MEL.bands), np.float32)
    return Change(tempo, zero + 0.5, voice * BANDS_A_FACTOR, level, level + FLOOR, zero)


def standard(
    mel: Array, melody: Array, count: Array, known: Statistics, absolute: Any
) -> tuple[Array, Array]:
    """What the model reads, less what it should not: f32[n, T, F, 3], f32[n, T, P + 2].

    Log-mel, that less the utterance's mean, and its changes; prosody, and pitch and energy less
    the utterance's mean.
    """
    real = within(count, mel.shape[1])[..., None]

    def less_mean(x: Array, where: Array) -> Array:
        total = jnp.where(where, x, 0).sum(1, keepdims=True)
        return x - total / jnp.maximum(where.sum(1, keepdims=True), 1)

    voiced = real & (melody[..., 1:2] > 0.5)
    pitch, energy = less_mean(melody[..., :1], voiced), less_mean(melody[..., 3:4], real)
    melody = (melody - known.prosody[0]) / known.prosody[1]
    relative = [y / known.prosody[1][i] for y, i in ((pitch, 0), (energy, 3))]
    melody = jnp.concatenate([melody * _where_absolute(absolute), *relative], -1)
    mel = (mel - known.mel[0]) / known.mel[1]
    channels = [absolute * mel, less_mean(mel, real), 4 * delta(mel, count, 5)]
    return jnp.where(real[..., None], jnp.stack(channels, -1), 0), jnp.where(real, melody, 0)


def _where_absolute(share: Array) -> Array:
    return jnp.stack([share, 1.0, 1.0, share, 1.0, 1.0])
