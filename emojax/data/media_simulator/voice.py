"""Speech-like sound: glottal pulses through formants, in the rhythm of syllables.

Pulses are Rosenberg's (1971), formants second-order resonators (Klatt 1980). Nobody understands it;
pitch, loudness and rhythm are what they would be of a voice.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from emojax.data.media_simulator.scene import Scene, syllable_rate

VOWELS = np.array(
    [  # F1, F2, F3 in Hz, about those of Peterson and Barney (1952); how far the jaw is open
        (730, 1090, 2440, 1.00), (660, 1720, 2410, 0.85), (570, 840, 2410, 0.75),
        (530, 1840, 2480, 0.60), (440, 1020, 2240, 0.45), (390, 1990, 2550, 0.40),
        (300, 870, 2240, 0.30), (270, 2290, 3010, 0.25),
    ]
)  # fmt: skip
BANDWIDTH = (80.0, 100.0, 140.0)
"""Hz of each formant."""
PITCH = (115.0, 205.0, 155.0)
"""Hz of each speaker, before emotion."""


class Speech(NamedTuple):
    """Sound f64[N] of a whole recording, and its mouth: open f64[K] at times f64[K], 0 to 1."""

    sound: np.ndarray
    times: np.ndarray
    open: np.ndarray


def speak(scene: Scene, rate: int) -> Speech:
    """The conversation's sound at `rate` Hz, and how far the mouth that makes it is open."""
    sound = np.zeros(int(np.ceil(scene.seconds * rate)))
    step = rate // 200
    jaw = np.zeros(len(sound) // step + 1)
    for k in range(len(scene)):
        first = int(scene.start[k] * rate)
        last = min(int(scene.end[k] * rate), len(sound))
        draw = scene.draw(k)
        pitch = PITCH[scene.speaker[k] % len(PITCH)] * np.exp2(3.0 * scene.voice[k, 0] / 12)
        gain = 10 ** (3.0 * scene.voice[k, 1] / 20)
        part, opening = _utterance(last - first, scene.voice[k], pitch, gain, rate, draw)
        sound[first:last] += part
        at = np.arange(first // step + 1, last // step)
        jaw[at] = opening[at * step - first]
    times = np.arange(len(jaw)) * step / rate
    # A jaw has weight: it follows with a time constant of 25 ms, both ways alike.
    pull = 1 - np.exp(-(step / rate) / 0.025)
    for _ in range(2):
        jaw = lfilter([pull], [1, pull - 1], jaw)[::-1]
    return Speech(sound, times, np.clip(jaw, 0, 1))


def _utterance(
    length: int, voice: np.ndarray, pitch: float, gain: float, rate: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sound and opening of the mouth, each f64[length]."""
    count = max(1, round(length / rate * float(syllable_rate(voice[None])[0])))
    share = draw.uniform(0.7, 1.3, count)
    edges = np.concatenate([[0], np.cumsum(share / share.sum())]) * length
    place = np.arange(length)
    syllable = np.clip(np.searchsorted(edges, place, "right") - 1, 0, count - 1)
    within = (place - edges[syllable]) / (edges[syllable + 1] - edges[syllable])
    stress = draw.uniform(0.5, 1.0, count)
    # A consonant's quiet, then the vowel, loudest at a third of it.
    vowel = np.sin(np.pi * np.clip((within - 0.15) / 0.85, 0, 1) ** 0.7)
    envelope = stress[syllable] * vowel
    accent = np.interp(place, (edges[:-1] + edges[1:]) / 2, draw.normal(0, 1.2, count))
    semitones = accent + 2.0 * (0.5 - place / max(length, 1)) + 1.5 * envelope
    frequency = pitch * np.exp2(semitones / 12) * (1 + 0.01 * draw.standard_normal(length))
    source = _pulses(np.cumsum(frequency) / rate) + 0.03 * draw.standard_normal(length)
    kind = draw.integers(len(VOWELS), size=count)
    sound = _formants(source * envelope, edges, kind, rate)
    hiss = np.clip(1 - np.abs(within - 0.07) / 0.07, 0, 1) * (draw.random(count) < 0.5)[syllable]
    sound += 0.15 * hiss * draw.standard_normal(length)
    loud = np.sqrt(np.mean(np.square(sound))) if length else 1.0
    return 0.05 * gain * sound / max(loud, 1e-9), envelope * VOWELS[kind[syllable], 3]


def _pulses(phase: np.ndarray) -> np.ndarray:
    """Derivative of the glottal flow at phases in periods: opens for .4 of one, closes for .16."""
    t = phase % 1
    opening, closing = 0.4, 0.16
    rising = np.pi / (2 * opening) * np.sin(np.pi * t / opening)
    falling = -np.pi / (2 * closing) * np.sin(np.pi * (t - opening) / (2 * closing))
    return np.where(t < opening, rising, np.where(t < opening + closing, falling, 0.0))


def _formants(source: np.ndarray, edges: np.ndarray, kind: np.ndarray, rate: int) -> np.ndarray:
    """The source through three resonators in a row, which change with the syllable."""
    out = source.copy()
    bounds = np.rint(edges).astype(int)
    for f, width in enumerate(BANDWIDTH):
        radius = np.exp(-np.pi * width / rate)
        state = np.zeros(2)
        for k, (first, last) in enumerate(itertools.pairwise(bounds)):
            if last > first:
                turn = 2 * radius * np.cos(2 * np.pi * VOWELS[kind[k], f] / rate)
                b, a = [1 - turn + radius**2], [1, -turn, radius**2]
                out[first:last], state = lfilter(b, a, out[first:last], zi=state)
    return out
