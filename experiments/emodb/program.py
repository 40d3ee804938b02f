"""Many trainings of one small model as lanes of one program: what differs between them is data.

N utterances of the corpus, n of a batch, T frames, F mel bands, P measures of prosody, C emotions.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from emojax.nn.encoders.audio import MOMENTUM, AudioConfig, AudioEncoder
from emojax.nn.layers import Dropout, dense
from emojax.ops.audio.augment import mixed, resample, spec_augment
from emojax.ops.audio.frames import frame_count, within
from emojax.ops.audio.prosody import ProsodyConfig, delta, prosody
from emojax.ops.audio.spectrum import MelConfig, log_mel
from emojax.ops.random import TracedRate

# Nothing is above 7.3 kHz in these recordings.
MEL = MelConfig(hop=320, bands=48, high=7200.0)
PROSODY = ProsodyConfig(hop=320, delta=5)
ENCODER = AudioConfig(
    channels=(16, 32, 64, 96), recurrent=48, prosody_step=2, features=96, functionals=1.0
)
CLEAN = 256
"""Utterances from which a trained network's statistics are taken."""
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


class Lane(NamedTuple):
    """One training.

    Attributes:
      seed: i32[].
      steps: i32[]; of the whole training.
      weight: f32[N]; how often an utterance is drawn; 0 for those of speakers held out.
      settings: as above.
    """

    seed: Any
    steps: Any
    weight: Any
    settings: Settings


class State(NamedTuple):
    step: Any
    params: Any
    stats: Any
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


class Program:
    """Trains and asks lanes.

    Args:
      config: sizes of the encoder; its dropout is the lanes'.
      batch: utterances of a step.
      at_once: lanes computed side by side; the others after them.
      averaging: of parameters, the share kept from step to step.
    """

    def __init__(
        self, config: AudioConfig, classes: int, *, batch: int, at_once: int,
        averaging: float = 0.995,
    ):  # fmt: skip
        self.config, self.classes = config, classes
        self.batch, self.averaging = batch, averaging
        self.adam = optax.chain(optax.clip_by_global_norm(5.0), optax.scale_by_adam())

        def over(function: Any, lanes: int, at_once: int = at_once) -> Any:
            def call(*given: Any) -> Any:
                mine, common = given[:lanes], given[lanes:]
                one = lambda mine: function(*mine, *common)  # noqa: E731
                if len(jax.tree.leaves(mine)[0]) <= at_once:
                    return jax.vmap(one)(mine)
                return jax.lax.map(one, mine, batch_size=at_once if at_once > 1 else None)

            return call

        self.start = jax.jit(over(self._start, 1))
        self.train = jax.jit(over(self._train, 2), static_argnums=3, donate_argnums=0)
        # Without a backward pass there is little to gain from many lanes, and much to store.
        self.ask = jax.jit(over(self._ask, 3, -(-at_once // 9)))

    def model(self, settings: Settings, *, trains: bool) -> Classifier:
        """Of a lane."""
        rate: Any = 0.0
        if trains:
            words = (settings.dropout * 2.0**32).astype(jnp.uint32)
            rate = TracedRate(words, 1 - settings.dropout)
        functionals: Any = settings.functionals
        config = dataclasses.replace(self.config, dropout=rate, functionals=functionals)
        return Classifier(config, self.classes)

    def _start(self, lane: Lane, sounds: Sounds) -> State:
        one = [jnp.zeros((1, *x.shape[1:])) for x in (sounds.mel, sounds.prosody)]
        mel = jnp.zeros((*one[0].shape, 3))
        melody = jnp.zeros((*one[1].shape[:2], one[1].shape[2] + 2))
        model = self.model(lane.settings, trains=False)
        variables = model.init(jax.random.key(lane.seed), mel, melody, sounds.count[:1])
        variables = nn.meta.unbox(variables)
        params, stats = variables["params"], variables.get("batch_stats", {})
        return State(
            jnp.zeros((), jnp.int32), params, stats, self.adam.init(params),
            jax.tree.map(jnp.array, params), jnp.zeros(()),
        )  # fmt: skip

    def _train(self, state: State, lane: Lane, sounds: Sounds, steps: int) -> State:
        known = statistics(sounds, lane.weight)
        bound = jnp.cumsum(lane.weight / lane.weight.sum())
        model, s = self.model(lane.settings, trains=True), lane.settings

        def draw(key: Array) -> Any:
            keys = jax.random.split(key, 5)
            chosen = (jax.random.uniform(keys[0], (self.batch, 1)) > bound[:-1]).sum(1)
            given = (sounds.mel[chosen], sounds.prosody[chosen], sounds.count[chosen])
            change = jax.vmap(lambda key: drawn(key, s))(jax.random.split(keys[1], self.batch))
            mel, melody, count = jax.vmap(altered)(*given, change)
            mel, melody = standard(mel, melody, count, known, s.absolute)
            each = jax.random.split(keys[2], self.batch)
            mel = jax.vmap(functools.partial(hidden, s=s))(each, mel, count)
            target = jax.nn.one_hot(sounds.label[chosen], self.classes)
            # Beta(1/2, 1/2), the larger half.
            share = jnp.square(jnp.sin(np.pi / 2 * jax.random.uniform(keys[3], (self.batch,))))
            mix = jax.random.uniform(keys[4], (self.batch,)) < s.mix
            share = jnp.where(mix, jnp.maximum(share, 1 - share), 1)
            mel, melody, target = (mixed(x, x[::-1], share) for x in (mel, melody, target))
            count = jnp.where(share < 1, jnp.maximum(count, count[::-1]), count)
            return mel, melody, count, target

        def step(state: State, _: None) -> tuple[State, Array]:
            key = jax.random.fold_in(jax.random.key(lane.seed), state.step + 1)
            of_draw, of_dropout = jax.random.split(key)
            mel, melody, count, target = draw(of_draw)
            target = target * (1 - s.smoothing) + s.smoothing / self.classes
            weight = jnp.stack([jnp.ones(()), s.auxiliary, s.auxiliary])

            def loss(params: Any) -> tuple[Array, Any]:
                found, changed = model.apply(
                    {"params": params, "batch_stats": state.stats}, mel, melody, count,
                    rngs={"dropout": of_dropout}, mutable=["batch_stats"],
                )  # fmt: skip
                value = -jnp.einsum("nhc,nc,h->", found, target, weight) / self.batch
                return value, changed.get("batch_stats", {})

            (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
            update, optimiser = self.adam.update(gradient, state.optimiser)
            rate = s.rate * _schedule(state.step / lane.steps)
            params = jax.tree.map(
                lambda p, u: p - rate * (u + (s.decay * p if p.ndim > 1 else 0)),
                state.params, update,
            )  # fmt: skip
            keep = jnp.minimum(self.averaging, (1 + state.step) / (10 + state.step))
            average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, params)
            mean_loss = 0.95 * state.loss + 0.05 * value
            return State(state.step + 1, params, stats, optimiser, average, mean_loss), value

        return jax.lax.scan(step, state, None, steps)[0]

    def _ask(self, state: State, lane: Lane, which: Array, sounds: Sounds) -> Array:
        """Log probabilities f32[V, which, 3, C] of V versions of the utterances asked about."""
        known = statistics(sounds, lane.weight)
        given = sounds.mel[which], sounds.prosody[which], sounds.count[which]
        stats = self._clean_stats(state, lane, sounds, known)
        variables = {"params": state.average, "batch_stats": stats}
        model = self.model(lane.settings, trains=False)

        def heard(change: Change) -> Array:
            each = jax.vmap(altered, in_axes=(0, 0, 0, None))(*given, change)
            mel, melody = standard(*each, known, lane.settings.absolute)
            return model.apply(variables, mel, melody, each[2])

        return jax.lax.map(heard, versions())

    def _clean_stats(self, state: State, lane: Lane, sounds: Sounds, known: Statistics) -> Any:
        """Statistics of the averaged network's activations, of training utterances as they are.

        Those gathered while training are of other parameters, and of utterances that were altered,
        mixed and half hidden (P. Izmailov et al., arXiv:1803.05407, section 3.2).
        """
        bound = jnp.cumsum(lane.weight / lane.weight.sum())
        key = jax.random.fold_in(jax.random.key(lane.seed), 0)
        chosen = (jax.random.uniform(key, (CLEAN, 1)) > bound[:-1]).sum(1)
        given = sounds.mel[chosen], sounds.prosody[chosen], sounds.count[chosen]
        mel, melody = standard(*given, known, lane.settings.absolute)
        nothing = jax.tree.map(jnp.zeros_like, state.stats)
        # With a stream of dropout the model takes the batch's statistics; of rate 0, nothing else.
        _, changed = self.model(lane.settings, trains=False).apply(
            {"params": state.average, "batch_stats": nothing}, mel, melody, given[2],
            rngs={"dropout": key}, mutable=["batch_stats"],
        )  # fmt: skip
        return jax.tree.map(lambda x: x / (1 - MOMENTUM), changed["batch_stats"])


def _schedule(share: Array) -> Array:
    """Up within a twentieth of the training, then down as half a cosine."""
    return jnp.minimum(share / 0.05, 0.5 * (1 + jnp.cos(np.pi * jnp.minimum(share, 1.0))))


def hidden(key: Array, x: Array, count: Array, s: Settings) -> Array:
    """SpecAugment of all channels in the same places."""
    shown = spec_augment(key, jnp.ones(x.shape[:2]), count, frames=s.frames, bands=s.bands)
    return x * shown[..., None]
