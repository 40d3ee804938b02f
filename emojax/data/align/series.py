"""One number a frame of what is heard and of what is seen, in which both move together."""

from __future__ import annotations

import numpy as np


def loudness(sound: np.ndarray, rate: int, fps: float, frames: int) -> np.ndarray:
    """f32[F]: level of the sound around each frame of a film, dB of full scale.

    Windows are a frame's time wide with the frame at their middle; -80 dB is the least.

    Args:
      sound: f[N], full scale 1.
      rate: Hz of the sound; fps: Hz of the film.
    """
    squares = np.concatenate([[0.0], np.cumsum(np.square(sound, dtype=np.float64))])
    middle = np.arange(frames) * rate / fps
    first, last = (
        np.clip(np.rint(middle + side * rate / fps / 2).astype(int), 0, len(sound))
        for side in (-1, 1)
    )
    power = (squares[last] - squares[first]) / np.maximum(last - first, 1)
    return (10 * np.log10(np.maximum(power, 1e-8))).astype(np.float32)


def mouth_opening(faces: np.ndarray) -> np.ndarray:
    """f32[F]: share of the lower middle of each face that is much darker than the rest of it.

    That is the inside of an open mouth, whatever the colour of the skin. Darkness counts softly
    and after a blur, so that noise in pixels matters little.

    Args:
      faces: u8[F, H, W, 3], upright and about centred.
    """
    height, width = faces.shape[1:3]
    part = faces[:, height * 55 // 100 : height * 9 // 10, width * 3 // 10 : width * 7 // 10]
    bright = part.mean(-1, dtype=np.float32)
    bright = _blurred(_blurred(bright, 1), 2)
    skin = np.median(bright, axis=(1, 2), keepdims=True)
    return np.clip(2.5 - 4 * bright / np.maximum(skin, 1), 0, 1).mean((1, 2))


def _blurred(x: np.ndarray, axis: int) -> np.ndarray:
    """Each pixel with half of the weight of its two neighbours."""
    x = np.moveaxis(x, axis, -1).copy()
    x[..., 1:-1] = 0.5 * x[..., 1:-1] + 0.25 * (x[..., :-2] + x[..., 2:])
    return np.moveaxis(x, -1, axis)
