"""What trainings may differ in, and what their utterances are turned into by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emojax.ops.audio.augment import spec_augment
from experiments.emodb.hearing import BANDS_A_FACTOR, FLOOR, MEL, Change


class Settings(NamedTuple):
    """What lanes may differ in; each a number.

    Attributes:
      rate: of learning, at its highest.
      decay: of weights (AdamW).
      dropout: share of features dropped.
      smoothing: of labels.
      mix: share of batches' utterances that are mixed with others.
      auxiliary: weight of the losses of log-mel and of prosody by themselves.
      tempo, voice: largest change of tempo and of formants, as logarithms.
      pitch: largest change of F0, octaves.
      gain, tilt: largest change of level and from the lowest band to the highest, dB.
      noise: share of utterances to which noise is added.
      frames, bands: widest stretches hidden by SpecAugment.
      absolute: factor on log-mel, pitch and energy as they are; at 0 the model knows them only
        less the utterance's mean.
      functionals: see `AudioConfig`.
    """

    rate: float = 2e-3
    decay: float = 0.05
    dropout: float = 0.2
    smoothing: float = 0.1
    mix: float = 0.5
    auxiliary: float = 0.3
    tempo: float = 0.2
    voice: float = 0.1
    pitch: float = 0.25
    gain: float = 6.0
    tilt: float = 6.0
    noise: float = 0.5
    frames: float = 20.0
    bands: float = 8.0
    absolute: float = 1.0
    functionals: float = 1.0


def drawn(key: Array, s: Settings) -> Change:
    """Another voice in another place."""
    keys = jax.random.split(key, 9)

    def between(i: int, low: Any, high: Any) -> Array:
        return jax.random.uniform(keys[i], (), minval=low, maxval=high)

    across = jnp.linspace(-0.5, 0.5, MEL.bands)
    noise = between(5, -60.0, -35.0) + 10 * jax.random.normal(keys[6], ()) * across
    return Change(
        jnp.exp(between(0, -s.tempo, s.tempo)), between(1, 0.0, 1.0),
        between(2, -s.voice, s.voice) * BANDS_A_FACTOR,
        between(3, -s.gain, s.gain) + between(4, -s.tilt, s.tilt) * across,
        jnp.where(jax.random.uniform(keys[7]) < s.noise, noise, FLOOR),
        between(8, -s.pitch, s.pitch),
    )  # fmt: skip


def hidden(key: Array, x: Array, count: Array, s: Settings) -> Array:
    """SpecAugment of all channels in the same places."""
    shown = spec_augment(key, jnp.ones(x.shape[:2]), count, frames=s.frames, bands=s.bands)
    return x * shown[..., None]
