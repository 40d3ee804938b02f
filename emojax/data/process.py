"""The process behind the embedded corpus, every probability of it.

Speakers carry emotions that persist (inertia), spread to whoever speaks next (contagion) and are
now and then drawn afresh. An utterance shows its speaker's emotion in three ways:

  text    one of a few ways to say it per emotion; when sarcastic, those of the partner emotion,
  audio   mostly arousal, noisier; a sarcastic tone is a fixed shift of the features,
  visual  mostly valence, noisier,

and audio and visual pass through bursts of noise, a hidden two-state Markov chain each. Some
observations are missing, at random. `emojax.data.simulator` draws from the process and
`emojax.data.posterior` inverts it exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from emojax.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class SimulatorConfig:
    """Every number of the process; built once, checked when built, hashable.

    Features have noise of standard deviation 1 outside bursts, so the gains below are lengths in
    noise units. Triples follow `MODALITIES`; pairs are (audio, visual).

    Attributes:
      seed: what is drawn; `world_seed`: the means it is drawn around.
      train, validation, test: number of conversations.
      shortest, longest: utterances of a conversation, both included.
      mean_length, length_spread: mean and log standard deviation of the lognormal length before
        it is rounded and clipped.
      labels, valence, arousal: C emotions and where they lie.
      partner: index of the emotion whose words a sarcastic speaker uses.
      base_rate: probability of each emotion when drawn afresh. It is also every utterance's
        marginal, because inertia and contagion only copy.
      speakers: S, one to three.
      hold_turn: probability that the speaker goes on speaking; else the others are equally likely.
      inertia, contagion: probability that a speaker keeps the own emotion, or takes over that of
        another (each other equally likely); the rest is drawn afresh. A lone speaker draws
        afresh with probability 1 - inertia.
      widths, components: D_m and the number of mixture components per emotion.
      identity, arousal_gain, valence_gain, variety: lengths of an emotion's own direction, of the
        shared arousal and valence directions, and of a component's deviation from its emotion.
      sarcasm: probability that an utterance is sarcastic; `sarcasm_cue`: length of audio's shift.
      burst_start, burst_stop: probabilities of clean -> noisy and noisy -> clean per utterance.
      burst_noise: standard deviation of the noise in a burst.
      missing: probability that an observation is missing.

    Raises:
      ConfigError: a value is out of its range or two fields do not fit.
    """

    seed: int = 0
    world_seed: int = 0
    train: int = 9000
    validation: int = 100
    test: int = 200
    shortest: int = 6
    longest: int = 40
    mean_length: float = 18.0
    length_spread: float = 0.45
    labels: tuple[str, ...] = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
    valence: tuple[float, ...] = (1.0, -1.0, 0.0, -1.0, 1.0, -1.0)
    arousal: tuple[float, ...] = (0.2, -1.0, -0.5, 1.0, 1.0, 0.4)
    partner: tuple[int, ...] = (1, 0, 2, 4, 3, 0)
    base_rate: tuple[float, ...] = (0.15, 0.15, 0.25, 0.15, 0.15, 0.15)
    speakers: int = 2
    hold_turn: float = 0.25
    inertia: float = 0.45
    contagion: float = 0.17
    widths: tuple[int, int, int] = (32, 16, 16)
    components: tuple[int, int, int] = (2, 2, 2)
    identity: tuple[float, float, float] = (3.0, 0.0, 0.0)
    arousal_gain: tuple[float, float, float] = (0.0, 1.4, 0.0)
    valence_gain: tuple[float, float, float] = (0.0, 0.0, 1.4)
    variety: tuple[float, float, float] = (0.7, 0.2, 0.2)
    sarcasm: float = 0.15
    sarcasm_cue: float = 1.2
    burst_start: tuple[float, float] = (0.1, 0.1)
    burst_stop: tuple[float, float] = (0.3, 0.3)
    burst_noise: tuple[float, float] = (1.5, 1.5)
    missing: tuple[float, float, float] = (0.33, 0.2, 0.2)

    def __post_init__(self) -> None:
        classes = len(self.labels)
        probabilities = [self.hold_turn, self.inertia, self.contagion, self.sarcasm]
        probabilities += [*self.base_rate, *self.missing, *self.burst_start, *self.burst_stop]
        gains = [*self.identity, *self.arousal_gain, *self.valence_gain, *self.variety]
        gains += [self.sarcasm_cue, *self.valence, *self.arousal]
        per_class = [self.valence, self.arousal, self.partner, self.base_rate]
        triples: list[tuple[float, ...]] = [self.widths, self.components, self.missing]
        triples += [self.identity, self.arousal_gain, self.valence_gain, self.variety]
        pairs = [self.burst_start, self.burst_stop, self.burst_noise]
        sizes = [self.train, self.validation, self.test, self.seed, self.world_seed]
        demands = {
            "labels must be distinct and at least one": 0 < len(set(self.labels)) == classes,
            "valence, arousal, partner and base_rate need one entry per label": all(
                len(values) == classes for values in per_class
            ),
            "a field per modality needs three entries": all(len(v) == 3 for v in triples),
            "a burst_ field needs two entries, audio and visual": all(len(v) == 2 for v in pairs),
            "probabilities must lie in [0, 1]": all(0 <= p <= 1 for p in probabilities),
            "base_rate must sum to 1": math.isclose(sum(self.base_rate), 1, abs_tol=1e-9),
            "inertia + contagion must not exceed 1": self.inertia + self.contagion <= 1 + 1e-12,
            "partner must index labels": all(0 <= p < classes for p in self.partner),
            "speakers must be 1, 2 or 3": self.speakers in (1, 2, 3),
            "1 <= shortest <= longest is needed": 1 <= self.shortest <= self.longest,
            "mean_length must be positive": 0 < self.mean_length < math.inf,
            "length_spread must not be negative": 0 <= self.length_spread < math.inf,
            "train, validation, test and the seeds must not be negative": min(sizes) >= 0,
            "widths and components must be at least 1": min(*self.widths, *self.components) >= 1,
            "gains, valence and arousal must be finite": all(map(math.isfinite, gains)),
            "burst_noise must be positive": all(0 < s < math.inf for s in self.burst_noise),
        }
        for demand, met in demands.items():
            if not met:
                raise ConfigError(f"simulator: {demand}")

    @property
    def burst_share(self) -> tuple[float, float]:
        """Share of utterances inside a burst, where the chains also start."""
        audio, visual = (
            start / (start + stop) if start > 0 else 0.0
            for start, stop in zip(self.burst_start, self.burst_stop, strict=True)
        )
        return audio, visual


def contradicts(
    emotion: np.ndarray, config: SimulatorConfig, sarcastic: np.ndarray | bool = True
) -> np.ndarray:
    """Whether the words of (sarcastic) speakers who feel int[...] emotions are of another one.

    An emotion that is its own partner is never contradicted: its sarcastic words are its own.
    """
    return sarcastic & (np.asarray(config.partner)[emotion] != emotion)


class World(NamedTuple):
    """What `world_seed` fixes: `means[m]` is f64[C, K_m, D_m], `cue` f64[D_audio]."""

    means: tuple[np.ndarray, np.ndarray, np.ndarray]
    cue: np.ndarray


@functools.lru_cache(maxsize=8)
def world(config: SimulatorConfig) -> World:
    """The means of all features, the same for every `seed` and split."""
    rng = np.random.Generator(np.random.PCG64(config.world_seed))

    def directions(*shape: int) -> np.ndarray:
        vectors = rng.standard_normal(shape)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)

    means = []
    for m, (width, components) in enumerate(zip(config.widths, config.components, strict=True)):
        emotion = config.arousal_gain[m] * np.outer(config.arousal, directions(width))
        emotion += config.valence_gain[m] * np.outer(config.valence, directions(width))
        emotion += config.identity[m] * directions(len(config.labels), width)
        deviation = config.variety[m] * directions(len(config.labels), components, width)
        means.append(emotion[:, None] + deviation)
    text, audio, visual = means
    return World((text, audio, visual), config.sarcasm_cue * directions(config.widths[1]))
