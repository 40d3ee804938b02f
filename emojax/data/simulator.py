"""The embedded corpus: conversations drawn from the process of `emojax.data.process`.

Nothing is downloaded and every probability is known, so a model trained on this corpus can be
held against what is possible at all (`emojax.data.posterior`).
"""

from __future__ import annotations

import math

import numpy as np

from emojax.data.phrases import phrase
from emojax.data.process import SimulatorConfig, world
from emojax.types import MODALITIES, Conversation, Signature

__all__ = ["DEFAULT", "SimulatorConfig", "signature", "simulate", "simulate_with_sarcasm"]

DEFAULT = SimulatorConfig()


def signature(config: SimulatorConfig = DEFAULT) -> Signature:
    """Sizes and names of the corpus that `simulate(config)` draws."""
    return Signature("simulated", config.labels, tuple("ABC"[: config.speakers]), config.widths)


def simulate(config: SimulatorConfig = DEFAULT) -> dict[str, tuple[Conversation, ...]]:
    """Draws the splits train, validation and test.

    Each split has its own random stream: changing the size of one leaves the others as they were.
    """
    return {
        split: tuple(conversation for conversation, _ in drawn)
        for split, drawn in simulate_with_sarcasm(config).items()
    }


def simulate_with_sarcasm(
    config: SimulatorConfig = DEFAULT,
) -> dict[str, tuple[tuple[Conversation, np.ndarray], ...]]:
    """The same, each conversation with what nobody is told of it: bool[L], who was sarcastic."""
    sizes = {"train": config.train, "validation": config.validation, "test": config.test}
    streams = np.random.SeedSequence(config.seed).spawn(len(sizes))
    return {
        split: _draw(split, size, config, np.random.Generator(np.random.PCG64(stream)))
        for (split, size), stream in zip(sizes.items(), streams, strict=True)
    }


def _draw(
    split: str, size: int, config: SimulatorConfig, rng: np.random.Generator
) -> tuple[tuple[Conversation, np.ndarray], ...]:
    """`size` conversations and their sarcasm, drawn side by side at full length [N, L], then cut to
    their own."""
    log_mean = math.log(config.mean_length) - config.length_spread**2 / 2
    lengths = np.rint(rng.lognormal(log_mean, config.length_spread, size))
    lengths = np.clip(lengths, config.shortest, config.longest).astype(int)

    speaker = _turns(size, config, rng)
    emotion = _emotions(speaker, config, rng)
    sarcastic = rng.random(emotion.shape) < config.sarcasm
    surface = np.where(sarcastic, np.asarray(config.partner)[emotion], emotion)
    ways = rng.integers(config.components, size=(*emotion.shape, len(MODALITIES)))
    present = rng.random(ways.shape) >= config.missing

    means, cue = world(config)
    centres = (
        means[0][surface, ways[..., 0]],
        means[1][emotion, ways[..., 1]] + sarcastic[..., None] * cue,
        means[2][emotion, ways[..., 2]],
    )
    deviations = (
        np.ones(emotion.shape),
        _noise(0, size, config, rng),
        _noise(1, size, config, rng),
    )
    features = []
    for m, (centre, deviation) in enumerate(zip(centres, deviations, strict=True)):
        values = centre + deviation[..., None] * rng.standard_normal(centre.shape)
        features.append(np.where(present[..., m, None], values, 0).astype(np.float32))

    conversations = []
    for n, length in enumerate(lengths):
        heard, shown, way = present[n, :length, 0], surface[n, :length], ways[n, :length, 0]
        conversation = Conversation(
            id=f"{split}_{n:04d}",
            text=features[0][n, :length].copy(),
            audio=features[1][n, :length].copy(),
            visual=features[2][n, :length].copy(),
            present=present[n, :length].copy(),
            speaker=speaker[n, :length].astype(np.int32),
            label=emotion[n, :length].astype(np.int32),
            transcript=tuple(
                phrase(config.labels[e], w) if h else ""
                for h, e, w in zip(heard, shown, way, strict=True)
            ),
        )
        conversations.append((conversation, sarcastic[n, :length].copy()))
    return tuple(conversations)


def _someone_else(speaker: np.ndarray, config: SimulatorConfig, rng: np.random.Generator):
    """For each speaker one of the others, equally likely; a lone speaker has only herself."""
    step = rng.integers(1, max(config.speakers, 2), size=speaker.shape)
    return (speaker + step) % config.speakers


def _turns(size: int, config: SimulatorConfig, rng: np.random.Generator) -> np.ndarray:
    """Who speaks: int[N, L], a Markov chain that knows nothing of emotions."""
    speaker = np.empty((size, config.longest), int)
    speaker[:, 0] = rng.integers(config.speakers, size=size)
    for t in range(1, config.longest):
        holds = rng.random(size) < config.hold_turn
        other = _someone_else(speaker[:, t - 1], config, rng)
        speaker[:, t] = np.where(holds, speaker[:, t - 1], other)
    return speaker


def _emotions(speaker: np.ndarray, config: SimulatorConfig, rng: np.random.Generator) -> np.ndarray:
    """What the speaker of each utterance feels: int[N, L]."""
    size, length = speaker.shape
    classes = len(config.labels)
    contagion = config.contagion if config.speakers > 1 else 0.0
    rows = np.arange(size)
    mood = rng.choice(classes, size=(size, config.speakers), p=config.base_rate)
    emotion = np.empty(speaker.shape, int)
    for t in range(length):
        own = speaker[:, t]
        if t > 0:
            fresh = rng.choice(classes, size=size, p=config.base_rate)
            caught = mood[rows, _someone_else(own, config, rng)]
            u = rng.random(size)
            changed = np.where(u < config.inertia + contagion, caught, fresh)
            mood[rows, own] = np.where(u < config.inertia, mood[rows, own], changed)
        emotion[:, t] = mood[rows, own]
    return emotion


def _noise(
    channel: int, size: int, config: SimulatorConfig, rng: np.random.Generator
) -> np.ndarray:
    """Standard deviation of the noise of audio (channel 0) or visual (1): f64[N, L]."""
    start, stop = config.burst_start[channel], config.burst_stop[channel]
    u = rng.random((size, config.longest))
    noisy = np.empty(u.shape, bool)
    noisy[:, 0] = u[:, 0] < config.burst_share[channel]
    for t in range(1, config.longest):
        noisy[:, t] = u[:, t] < np.where(noisy[:, t - 1], 1 - stop, start)
    return np.where(noisy, config.burst_noise[channel], 1.0)
