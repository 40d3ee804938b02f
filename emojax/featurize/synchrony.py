"""How far a recording's pictures are behind its sound, from its first minute."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import numpy as np

from emojax.data.align.lag import Method, Pair, estimate_lags
from emojax.data.align.series import loudness, mouth_opening
from emojax.featurize import faces, media

RATE = 25.0
"""Pictures a second that are looked at; a lag is known to one of them."""
PROBE = 60.0
"""Seconds of the recording that are looked at: work and memory do not grow with its length."""
LEAST_SCORE: dict[Method, float] = {"correlation": 0.25, "soft_dtw": 2.5}
"""Scores below are what streams that have nothing to do with one another may have."""
_CROP, _TOGETHER = 64, 64


@functools.lru_cache(maxsize=256)
def lag_of(path: Path, how: Literal["find", "whole"], method: Method) -> float:
    """Seconds; 0 where it cannot be told: no sound, no faces, or nothing in common.

    Args:
      how: "find" faces, of which the largest of each picture counts, or take the "whole" picture.
      method: see `emojax.data.align.lag.estimate_lags`.
    """
    try:
        mouth = _mouth(path, how)
        sound, rate, count = media.read_sound(path, 0.0, None, PROBE)
    except (media.Absent, media.Broken):
        return 0.0
    if not count or not np.isfinite(mouth).any():
        return 0.0
    pair = Pair.of(loudness(sound, rate, RATE, len(mouth)), mouth)
    (found,) = estimate_lags([pair], RATE, method=method)
    return round(found.seconds, 6) if found.score >= LEAST_SCORE[method] else 0.0


def _mouth(path: Path, how: Literal["find", "whole"]) -> np.ndarray:
    """f32[F] at `RATE`, NaN where there is no picture or no face on it."""
    series = np.full(round(PROBE * RATE), np.nan, np.float32)
    crops: list[np.ndarray] = []
    places: list[int] = []
    last = -1

    def take() -> None:
        if crops:
            series[places] = mouth_opening(np.stack(crops))
        crops.clear()
        places.clear()

    for picture in media.read_pictures(path, 0.0, None, RATE, PROBE):
        place = min(round(picture.time * RATE), len(series) - 1)
        last = max(last, place)
        crop = faces.largest(picture.pixels, _CROP, how)
        if crop is not None:
            crops.append(crop)
            places.append(place)
        if len(crops) == _TOGETHER:
            take()
    take()
    return series[: last + 1]
