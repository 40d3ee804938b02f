"""What microphones, cameras and networks do to a recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from emojax.data.corruptions import stretches
from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.scene import Scene

_SOUND, _FRAMES, _FROZEN, _TRACKS = 1001, 1002, 1003, 1004
_BURST, _FREEZE = 0.4, 0.5
"""Mean seconds of a burst and of a frozen stretch; a larger share makes them longer."""


def tracks(scene: Scene, config: MediaConfig) -> tuple[bool, bool]:
    """Whether there is sound, and whether there are frames."""
    chance = scene.draw(_TRACKS).random()
    no_sound, no_frames = config.missing
    return chance >= no_sound, not no_sound <= chance < no_sound + no_frames


def noisy_sound(sound: np.ndarray, scene: Scene, config: MediaConfig) -> np.ndarray:
    """f64[N] with stationary noise, and bursts of noise as loud as the speech is on average."""
    draw = scene.draw(_SOUND)
    loud = np.sqrt(np.mean(np.square(sound)))
    found = sound + loud * 10 ** (-config.sound_snr / 20) * draw.standard_normal(len(sound))
    if config.bursts:
        step = config.rate // 50
        inside = _stretches(len(sound) // step + 1, config.bursts, 50 * _BURST, draw)
        found += loud * np.repeat(inside, step)[: len(sound)] * draw.standard_normal(len(sound))
    return found


def noisy_frames(
    parts: Iterable[np.ndarray], scene: Scene, config: MediaConfig
) -> Iterator[np.ndarray]:
    """u8[n, H, W, 3] with noise in every pixel, some stretches frozen.

    The noise's level is that of the first part's variance, so that parts can come one by one.
    """
    draw, level = scene.draw(_FRAMES), None
    still = frozen(int(np.floor(scene.seconds * config.fps)), scene, config)
    first, last = 0, None
    for part in parts:
        if level is None:
            level = part.std() * 10 ** (-config.frame_snr / 20)
        if level:
            noise = draw.standard_normal(part.shape, np.float32)
            part = np.rint(np.clip(part + level * noise, 0, 255)).astype(np.uint8)
        here = still[first : first + len(part)]
        first += len(part)
        source = np.maximum.accumulate(np.where(here, -1, np.arange(len(part))))
        shown = part[source]
        if last is not None:  # else the very first frame is never frozen
            shown[source < 0] = last
        last = shown[-1]
        yield shown


def frozen(length: int, scene: Scene, config: MediaConfig) -> np.ndarray:
    """bool[F], where a frame repeats the one before."""
    if not config.frozen:
        return np.zeros(length, bool)
    inside = _stretches(length, config.frozen, config.fps * _FREEZE, scene.draw(_FROZEN))
    inside[:1] = False
    return inside


def _stretches(length: int, share: float, mean: float, draw: np.random.Generator) -> np.ndarray:
    least = share / (1 - share) if share < 1 else 1.0
    return stretches(length, share, max(mean, least), draw)
