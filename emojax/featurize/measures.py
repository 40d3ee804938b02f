"""Features of an utterance: what its sound and its face look like, pooled over time or in frames.

Sound: log-mel and prosody (`emojax.ops.audio`) of frames every 10 ms, and of each measure the mean,
deviation and percentiles; of pitch over voiced frames alone. Nothing of it is trained.

Face: with a pretrained encoder, mean and deviation of its features. Without one an encoder of
random weights would say less than plain measures do: where the face is and how large, how bright it
is, a small picture of it, its edges (histograms of oriented gradients, N. Dalal and B. Triggs,
CVPR 2005) and how much each part of it changes, mean and deviation of all of them.

In K frames: the utterance's time in K equal spans, and of each measure its mean in every span, so
that a model can see what came first. They stand one after the other in f32[K D].
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from emojax.data.wav import resampled
from emojax.featurize.faces import Face, load_cv

if TYPE_CHECKING:
    from emojax.interop.vision import VisionEncoder

RATE = 16_000
"""Samples per second that are listened to."""
BANDS = 64
_MEL_POOLS = 5
_PROSODY = 6
_PROSODY_POOLS = 6
AUDIO_WIDTH = _MEL_POOLS * BANDS + _PROSODY_POOLS * _PROSODY
_OF_VOICE = (0, 4)
"""Pitch and its change, which unvoiced frames do not have."""
SIZE = 48
"""Rows and columns of the crop that plain measures look at."""
_SMALL, _PARTS = 8, 4
_GRADIENTS = 324
PLAIN_WIDTH = 2 * (3 + 2 + _SMALL**2 + _GRADIENTS + _PARTS**2)


def audio_features(sound: np.ndarray, rate: int, frames: int = 0) -> np.ndarray:
    """f32[`audio_width`] of f32[S] at any rate; S is at least a tenth of a second.

    Args:
      frames: K, or 0 to pool over all of the time.
    """
    mel, change, prosody = _heard(sound, rate)
    voiced = prosody[:, 1] > 0
    if frames:
        at, edges = np.arange(len(mel)) + 0.5, np.linspace(0, len(mel), frames + 1)
        found = over_spans(np.concatenate([mel, prosody], 1), at, edges)
        # Pitch where there is any; a span without has that of the nearest that has.
        pitch = np.array(_OF_VOICE)
        if voiced.any():
            spoken = over_spans(prosody[voiced][:, pitch], at[voiced], edges)
        else:
            spoken = np.zeros((frames, len(pitch)))
        found[:, BANDS + pitch] = spoken
        return found.astype(np.float32).ravel()
    spread = np.percentile(mel, (10, 90), axis=0)
    pools = [mel.mean(0), mel.std(0), *spread, change.std(0)]
    for measure in range(_PROSODY):
        values = prosody[voiced if measure in _OF_VOICE else slice(None), measure]
        values = values if len(values) else np.zeros(1)
        pools.append(
            np.array(
                [values.mean(), values.std(), *np.percentile(values, (10, 50, 90)), np.ptp(values)]
            )
        )
    return np.concatenate(pools).astype(np.float32)


def audio_width(frames: int = 0) -> int:
    return frames * (BANDS + _PROSODY) or AUDIO_WIDTH


def _heard(sound: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-mel f64[T, BANDS], its change, and prosody f64[T, _PROSODY], a row every 10 ms."""
    sound = resampled(sound, rate, RATE)
    # A few lengths are compiled; which one is taken depends on the utterance alone.
    room = RATE << max(0, math.ceil(math.log2(len(sound) / RATE)))
    padded = np.zeros((1, room), np.float32)
    padded[0, : len(sound)] = sound
    mel, change, prosody = (
        np.asarray(x[0], np.float64) for x in _measure()(padded, np.array([len(sound)], np.int32))
    )
    count = 1 + len(sound) // _mel_config().hop
    return mel[:count], change[:count], prosody[:count]


def visual_features(
    face: Face, encoder: VisionEncoder | None, edges: np.ndarray | None = None
) -> np.ndarray:
    """f32[`visual_width`] of a face of at least one picture.

    Args:
      edges: f64[K + 1] seconds between which the K frames lie; None pools over all of the time.
    """
    rows = plain_measures(face) if encoder is None else encoder.encode(face.crops)
    rows = rows.astype(np.float64)
    if edges is not None:
        return over_spans(rows, face.times, edges).astype(np.float32).ravel()
    return np.concatenate([rows.mean(0), rows.std(0)]).astype(np.float32)


def visual_width(encoder: VisionEncoder | None, frames: int = 0) -> int:
    width = PLAIN_WIDTH // 2 if encoder is None else encoder.width
    return (frames or 2) * width


def over_spans(x: np.ndarray, at: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """f64[K, D]: means of rows of x f64[T, D] in each span; in an empty one, the nearest row.

    Args:
      at: f64[T] when each row was, increasing. T is at least 1.
      edges: f64[K + 1], increasing; what lies beyond them belongs to the first or last span.
    """
    count = len(edges) - 1
    span = np.clip(np.searchsorted(edges, at, side="right") - 1, 0, count - 1)
    middle = (edges[1:] + edges[:-1]) / 2
    found = x[np.abs(at - middle[:, None]).argmin(1)]
    for k in np.unique(span):
        found[k] = x[span == k].mean(0)
    return found


def plain_measures(face: Face) -> np.ndarray:
    """f64[T, PLAIN_WIDTH / 2] of every picture of a face."""
    cv2 = load_cv()
    grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in face.crops])
    light = grey.reshape(len(grey), -1).astype(np.float64) / 255
    level, contrast = light.mean(1), light.std(1)
    # What remains is what a lamp does not change.
    even = (light - level[:, None]) / np.maximum(contrast, 1e-3)[:, None]
    even = even.reshape(len(grey), SIZE, SIZE)
    small = _blocks(even, _SMALL).reshape(len(grey), -1)
    moved = np.abs(np.diff(even, axis=0, prepend=even[:1]))
    parts = _blocks(moved, _PARTS).reshape(len(grey), -1)
    gradients = np.stack([_gradients().compute(crop).ravel() for crop in grey])
    return np.concatenate(
        [face.boxes, np.stack([level, contrast], 1), small, gradients, parts], axis=1
    )


def _blocks(x: np.ndarray, count: int) -> np.ndarray:
    """Means of count x count blocks of each picture."""
    side = SIZE // count
    return x.reshape(len(x), count, side, count, side).mean((2, 4))


@functools.lru_cache(maxsize=1)
def _gradients() -> Any:
    """Nine directions in each of 6 x 6 cells, four cells to a block that is normalised."""
    cv2 = load_cv()
    return cv2.HOGDescriptor((SIZE, SIZE), (16, 16), (16, 16), (8, 8), 9)


@functools.lru_cache(maxsize=1)
def _mel_config() -> Any:
    from emojax.ops.audio.spectrum import MelConfig

    return MelConfig(rate=RATE, bands=BANDS)


@functools.lru_cache(maxsize=1)
def _measure() -> Callable[..., Any]:
    import jax

    from emojax.ops.audio.frames import frame_count
    from emojax.ops.audio.prosody import ProsodyConfig, delta, prosody
    from emojax.ops.audio.spectrum import log_mel

    mel_config, prosody_config = _mel_config(), ProsodyConfig(rate=RATE)

    @jax.jit
    def measure(sound: Any, length: Any) -> Any:
        mel = log_mel(sound, length, mel_config)
        change = delta(mel, frame_count(length, mel_config.hop), prosody_config.delta)
        return mel, change, prosody(sound, length, prosody_config)

    return measure
