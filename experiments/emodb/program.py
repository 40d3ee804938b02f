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
from emojax.ops.audio.augment import mixed
from emojax.ops.random import TracedRate
from experiments.emodb.hearing import (
    Change,
    Sounds,
    Statistics,
    altered,
    standard,
    statistics,
    versions,
)
from experiments.emodb.settings import Settings, drawn, hidden

ENCODER = AudioConfig(
    channels=(16, 32, 64, 96), recurrent=48, prosody_step=2, features=96, functionals=1.0
)
CLEAN = 256
"""Utterances from which a trained network's statistics are taken."""


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
    """Of one training.

    Attributes:
      step: i32[]; taken so far.
      params, stats: of the model, the latter of its activations (`batch_stats`).
      optimiser: Adam's.
      average: exponential moving average of the parameters, which is what is asked in the end.
      loss: of the last steps, about.
    """

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
