"""Many trainings of one small model as lanes of one program: what differs between them is data.

N utterances of the corpus, n of a batch, T frames, F mel bands, P measures of prosody, C emotions.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from emojax.nn.encoders.audio import AudioConfig, AudioEncoder
from emojax.nn.layers import Dropout, dense
from emojax.ops.audio.augment import mixed, resample, spec_augment
from emojax.ops.audio.frames import frame_count, within
from emojax.ops.audio.prosody import ProsodyConfig, delta, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel
from emojax.ops.random import TracedRate

MEL, PROSODY = MelConfig(), ProsodyConfig()
FLOOR = -70.0
"""dB below which recordings hold nothing but their rooms."""


class Sounds(NamedTuple):
    """What every lane reads: f32[N, T, F] dB, f32[N, T, P], frames i32[N], label i32[N]."""

    mel: Any
    prosody: Any
    count: Any
    label: Any


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
    frames: float = 40.0
    bands: float = 10.0


class Lane(NamedTuple):
    """One training.

    Attributes:
      seed: i32[].
      weight: f32[N]; how often an utterance is drawn; 0 for those of speakers held out.
      settings: as above.
    """

    seed: Any
    weight: Any
    settings: Settings


class State(NamedTuple):
    step: Any
    params: Any
    optimiser: Any
    average: Any
    loss: Any


class Classifier(nn.Module):
    """Log densities of both modalities together and of each by itself: f32[n, 3, C]."""

    config: AudioConfig
    classes: int

    @nn.compact
    def __call__(self, mel: Array, prosody: Array, count: Array) -> Array:
        spectral, melodic = AudioEncoder(self.config, name="encoder")(mel, prosody, count)
        drop = Dropout(self.config.dropout)
        heads = {
            "both": jnp.concatenate([spectral, melodic], -1), "mel": spectral, "prosody": melodic
        }  # fmt: skip
        each = [dense(self.classes, jnp.float32, name)(drop(x)) for name, x in heads.items()]
        return jax.nn.log_softmax(jnp.stack(each, 1))


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
    """Mean and deviation over the frames a lane trains on, f32[F] and f32[P]."""

    mel: tuple[Any, Any]
    prosody: tuple[Any, Any]


def statistics(sounds: Sounds, weight: Array) -> Statistics:
    def of(x: Array) -> tuple[Array, Array]:
        real = within(sounds.count, x.shape[1])[..., None]
        share = (weight > 0) / jnp.maximum(((weight > 0) * sounds.count).sum(), 1)
        mean = jnp.einsum("n,ntf->f", share, jnp.where(real, x, 0))
        apart = jnp.where(real, jnp.square(x - mean), 0)
        return mean, jnp.sqrt(jnp.einsum("n,ntf->f", share, apart) + 1e-6)

    return Statistics(of(sounds.mel), of(sounds.prosody))


def altered(key: Array, mel: Array, melody: Array, count: Array, s: Settings) -> Any:
    """One utterance as another voice in another place might have said it."""
    keys = jax.random.split(key, 9)

    def between(i: int, low: Any, high: Any) -> Array:
        return jax.random.uniform(keys[i], (), minval=low, maxval=high)

    step = jnp.exp(between(0, -s.tempo, s.tempo))
    size = mel.shape[0]
    wanted = count / step
    kept = jnp.minimum(jnp.floor(wanted).astype(jnp.int32), size)
    start = between(1, 0.0, 1.0) * jnp.maximum(wanted - size, 0) * step
    mel, melody = resample(mel, start, step), resample(melody, start, step)
    # In mel above 1 kHz a factor on frequency is a shift.
    bands = between(2, -s.voice, s.voice) * 64 / 44.0 / 0.0687
    mel = resample(mel, bands, 1.0, axis=1)
    gain = between(3, -s.gain, s.gain)
    slope = between(4, -s.tilt, s.tilt) * jnp.linspace(-0.5, 0.5, mel.shape[1])
    mel += gain + slope
    level = between(5, -60.0, -35.0) + 10 * jax.random.normal(keys[6], ()) * jnp.linspace(
        -0.5, 0.5, mel.shape[1]
    )
    loud = jax.random.uniform(keys[7]) < s.noise
    unit = np.log(10) / 10
    noisy = jnp.logaddexp(mel * unit, level * unit) / unit
    mel = jnp.maximum(jnp.where(loud, noisy, mel), FLOOR)
    change = jnp.stack([between(8, -s.pitch, s.pitch), 0.0, 0.0, gain, 0.0, 0.0])
    scale = jnp.stack([1.0, 1.0, 1.0, 1.0, step, step])
    return mel, melody * scale + change, kept


def standard(mel: Array, melody: Array, count: Array, known: Statistics) -> tuple[Array, Array]:
    """What the model reads: log-mel, log-mel less the utterance's mean, its changes; prosody."""
    real = within(count, mel.shape[1])[..., None]
    mel = (mel - known.mel[0]) / known.mel[1]
    melody = (melody - known.prosody[0]) / known.prosody[1]
    mean = jnp.where(real, mel, 0).sum(1, keepdims=True) / jnp.maximum(count, 1)[:, None, None]
    channels = jnp.stack([mel, mel - mean, 4 * delta(mel, count, 9)], -1)
    return jnp.where(real[..., None], channels, 0), jnp.where(real, melody, 0)


class Program:
    """Trains and asks lanes.

    Args:
      config: sizes of the encoder; its dropout is the lanes'.
      steps, batch: of each training.
      at_once: lanes computed side by side; the others after them.
      averaging: of parameters, the share kept from step to step.
    """

    def __init__(
        self, config: AudioConfig, classes: int, *, steps: int, batch: int, at_once: int,
        averaging: float = 0.995,
    ):  # fmt: skip
        self.config, self.classes = config, classes
        self.steps, self.batch, self.averaging = steps, batch, averaging
        self.adam = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())

        def over(function: Any, lanes: int) -> Any:
            def call(*given: Any) -> Any:
                mine, common = given[:lanes], given[lanes:]
                one = lambda mine: function(*mine, *common)  # noqa: E731
                if len(jax.tree.leaves(mine)[0]) <= at_once:
                    return jax.vmap(one)(mine)
                return jax.lax.map(one, mine, batch_size=at_once if at_once > 1 else None)

            return call

        self.start = jax.jit(over(self._start, 1))
        self.train = jax.jit(over(self._train, 2), static_argnums=3, donate_argnums=0)
        self.ask = jax.jit(over(self._ask, 3))

    def model(self, settings: Settings | None = None) -> Classifier:
        rate: Any = 0.0
        if settings is not None:
            words = (settings.dropout * 2.0**32).astype(jnp.uint32)
            rate = TracedRate(words, 1 - settings.dropout)
        import dataclasses

        return Classifier(dataclasses.replace(self.config, dropout=rate), self.classes)

    def _start(self, lane: Lane, sounds: Sounds) -> State:
        one = [jnp.zeros((1, *x.shape[1:])) for x in (sounds.mel, sounds.prosody)]
        mel = jnp.zeros((*one[0].shape, 3))
        variables = self.model().init(jax.random.key(lane.seed), mel, one[1], sounds.count[:1])
        params = nn.meta.unbox(variables)["params"]
        return State(
            jnp.zeros((), jnp.int32), params, self.adam.init(params),
            jax.tree.map(jnp.array, params), jnp.zeros(()),
        )  # fmt: skip

    def _train(self, state: State, lane: Lane, sounds: Sounds, steps: int) -> State:
        known = statistics(sounds, lane.weight)
        bound = jnp.cumsum(lane.weight / lane.weight.sum())
        model, s = self.model(lane.settings), lane.settings

        def draw(key: Array) -> Any:
            keys = jax.random.split(key, 5)
            chosen = (jax.random.uniform(keys[0], (self.batch, 1)) > bound[:-1]).sum(1)
            given = (sounds.mel[chosen], sounds.prosody[chosen], sounds.count[chosen])
            each = jax.random.split(keys[1], self.batch)
            mel, melody, count = jax.vmap(functools.partial(altered, s=s))(each, *given)
            mel, melody = standard(mel, melody, count, known)
            hide = functools.partial(spec_augment, frames=s.frames, bands=s.bands)
            each = jax.random.split(keys[2], self.batch)
            n, size, bands, channels = mel.shape
            mel = jax.vmap(hide)(each, mel.reshape(n, size, -1), count, fill=0.0) if 0 else (
                jax.vmap(lambda k, x, c: hide_channels(k, x, c, s))(each, mel, count)
            )
            target = jax.nn.one_hot(sounds.label[chosen], self.classes)
            share = jax.random.beta(keys[3], 0.4, 0.4, (self.batch,))
            share = jnp.where(
                jax.random.uniform(keys[4], (self.batch,)) < s.mix, jnp.maximum(share, 1 - share), 1
            )
            mel, melody, target = (mixed(x, x[::-1], share) for x in (mel, melody, target))
            count = jnp.where(share < 1, jnp.maximum(count, count[::-1]), count)
            return mel, melody, count, target

        def step(state: State, _: None) -> tuple[State, Array]:
            key = jax.random.fold_in(jax.random.key(lane.seed), state.step + 1)
            of_draw, of_dropout = jax.random.split(key)
            mel, melody, count, target = draw(of_draw)
            target = target * (1 - s.smoothing) + s.smoothing / self.classes
            weight = jnp.stack([jnp.ones(()), s.auxiliary, s.auxiliary])

            def loss(params: Any) -> Array:
                found = model.apply(
                    {"params": params}, mel, melody, count, rngs={"dropout": of_dropout}
                )
                return -jnp.einsum("nhc,nc,h->", found, target, weight) / self.batch

            value, gradient = jax.value_and_grad(loss)(state.params)
            update, optimiser = self.adam.update(gradient, state.optimiser)
            rate = s.rate * self.schedule(state.step)
            params = jax.tree.map(
                lambda p, u: p - rate * (u + (s.decay * p if p.ndim > 1 else 0)),
                state.params, update,
            )  # fmt: skip
            keep = jnp.minimum(self.averaging, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, params)
            mean_loss = 0.95 * state.loss + 0.05 * value
            return State(state.step + 1, params, optimiser, average, mean_loss), value

        return jax.lax.scan(step, state, None, steps)[0]

    def schedule(self, step: Array) -> Array:
        """Up within a twentieth, then down as half a cosine."""
        share = step / self.steps
        return jnp.minimum(share / 0.05, 0.5 * (1 + jnp.cos(np.pi * jnp.minimum(share, 1.0))))

    def _ask(self, params: Any, lane: Lane, which: Array, sounds: Sounds) -> Array:
        """Log probabilities f32[which, 3, C] of the utterances asked about."""
        known = statistics(sounds, lane.weight)
        given = sounds.mel[which], sounds.prosody[which], sounds.count[which]
        mel, melody = standard(*given, known)
        return self.model().apply({"params": params}, mel, melody, given[2])


def hide_channels(key: Array, x: Array, count: Array, s: Settings) -> Array:
    """SpecAugment of all channels in the same places."""
    shown = spec_augment(key, jnp.ones(x.shape[:2]), count, frames=s.frames, bands=s.bands)
    return x * shown[..., None]
