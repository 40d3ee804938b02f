"""Sounds of which everything is known."""

from __future__ import annotations

import numpy as np

RATE = 16_000


def pitch(time: np.ndarray) -> np.ndarray:
    """Hz of `voice` with seed 0 at times in seconds."""
    return 120 + 40 * time


def voice(seconds: float = 0.8, seed: int = 0, noise: float = 0.003) -> np.ndarray:
    """f32[S]: a gliding tone of six harmonics whose level rises and falls, over a little noise."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    f0 = pitch(time) + 40 * seed
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    tone = sum(np.cos(k * phase + k) / k for k in range(1, 7))
    level = 0.2 * (1.2 + np.sin(2 * np.pi * 3 * time))
    return (0.5 * level * tone + noise * draw.normal(size=len(time))).astype(np.float32)
