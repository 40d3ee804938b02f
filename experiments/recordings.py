"""Simulated recordings as series and pooled features, without the way through files.

What `emojax simulate-media` would write is measured here as it is made: sound and pixels alone are
looked at, nothing of the scene behind them but when utterances begin and end.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emojax.data.align.lag import Pair, shifted
from emojax.data.align.series import loudness, mouth_opening
from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.face import draw_faces, poses
from emojax.data.media_simulator.scene import Scene, scene
from emojax.data.media_simulator.spoil import noisy_frames, noisy_sound
from emojax.data.media_simulator.voice import Speech, speak
from emojax.files import write_atomically

GRID = 12
"""Cells of a face's side, whose brightness is its description."""


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """Attributes:
    scene, config: what was recorded, and how.
    sound: f64[N].
    loud, mouth: f32[F], see `emojax.data.align.series`.
    look: f32[F, GRID^2], brightness of a face's cells over that of its skin.
    """

    scene: Scene
    config: MediaConfig
    sound: np.ndarray
    loud: np.ndarray
    mouth: np.ndarray
    look: np.ndarray

    @property
    def pair(self) -> Pair:
        return Pair.of(self.loud, self.mouth)


def record(number: int, config: MediaConfig) -> Recording:
    """The recording of that number."""
    each = scene(number, config)
    speech = speak(each, config.rate)
    parts = list(draw_faces(poses(each, speech, config.fps), config.size))
    return measure(each, speech, parts, config)


def measure(
    each: Scene, speech: Speech, parts: Sequence[np.ndarray], config: MediaConfig
) -> Recording:
    """The recording of clean sound and frames with the noise that `config` says."""
    sound = noisy_sound(speech.sound, each, config)
    seen = [(mouth_opening(part), _look(part)) for part in noisy_frames(parts, each, config)]
    mouth, look = (np.concatenate(list(x)) for x in zip(*seen, strict=True))
    loud = loudness(sound, config.rate, config.fps, len(mouth))
    return Recording(each, config, sound, loud, mouth, look)


def features(recording: Recording, lag: float) -> tuple[np.ndarray, np.ndarray]:
    """f32[L, 7] of the voice and f32[L, 2 GRID^2] of the face in each utterance's time.

    Args:
      lag: seconds that the face is taken to be late, and moved back by.
    """
    each, fps = recording.scene, recording.config.fps
    look, there = shifted(recording.look, np.ones(len(recording.look), bool), lag, fps)
    everywhere = recording.look.mean(0)
    audio, visual = [], []
    for start, end in zip(each.start, each.end, strict=True):
        span = slice(int(start * fps), int(np.ceil(end * fps)))
        audio.append(_voice(recording, start, end, recording.loud[span]))
        frames = look[span][there[span]]
        # Nothing of the face in its time: that of the whole conversation, which says nothing.
        frames = frames if len(frames) else everywhere[None]
        visual.append(np.concatenate([frames.mean(0), frames.std(0)]))
    return np.stack(audio).astype(np.float32), np.stack(visual).astype(np.float32)


def write_pickle(
    path: Path, recordings: Sequence[Recording], lags: Sequence[float], test: int
) -> Path:
    """A corpus in the layout of IEMOCAP's 9-tuple, the last `test` recordings for testing.

    Labels are IEMOCAP's six, in its order. Words are not among the features.
    """
    fields: list[dict[str, object]] = [{} for _ in range(7)]
    for recording, lag in zip(recordings, lags, strict=True):
        each = recording.scene
        audio, visual = features(recording, lag)
        content = (
            [f"{each.id}_{k}" for k in range(len(each))], ["MF"[s] for s in each.speaker],
            each.emotion.tolist(), np.zeros((len(each), 1), np.float32), audio, visual,
            list(each.text),
        )  # fmt: skip
        for field, value in zip(fields, content, strict=True):
            field[each.id] = value
    names = list(fields[0])
    content = [*fields, names[:-test], names[-test:]]
    return write_atomically(path, pickle.dumps(content, protocol=4))


def _look(faces: np.ndarray) -> np.ndarray:
    frames, size = len(faces), faces.shape[1] // GRID * GRID
    cells = faces[:, :size, :size].mean(-1, dtype=np.float32)
    cells = cells.reshape(frames, GRID, size // GRID, GRID, size // GRID).mean((2, 4))
    cells = cells.reshape(frames, -1)
    return cells / np.median(cells, 1, keepdims=True)


def _voice(recording: Recording, start: float, end: float, loud: np.ndarray) -> np.ndarray:
    """Level, its spread and extremes, swings a second, pitch and how regular it is."""
    rate = recording.config.rate
    sound = recording.sound[int(start * rate) : int(end * rate)]
    swings = np.diff(np.sign(loud - loud.mean())) != 0
    pitch, regular = _pitch(sound, rate)
    levels = (loud.mean(), loud.std(), *np.percentile(loud, (10, 90)))
    return np.array([*levels, swings.sum() / (end - start), pitch, regular])


def _pitch(sound: np.ndarray, rate: int) -> tuple[float, float]:
    """log2 Hz and height of the autocorrelation's peak, medians over windows of 40 ms."""
    width = rate // 25
    windows = sound[: len(sound) // width * width].reshape(-1, width)
    windows = windows - windows.mean(1, keepdims=True)
    loud = np.square(windows).mean(1)
    windows = windows[loud >= np.median(loud)]
    spectrum = np.square(np.abs(np.fft.rfft(windows, 2 * width)))
    both = np.fft.irfft(spectrum)[:, :width]
    both = both / (both[:, :1] * (1 - np.arange(width) / width) + 1e-12)
    near, far = rate // 500, rate // 70
    peak = near + both[:, near:far].argmax(1)
    height = np.take_along_axis(both, peak[:, None], 1)[:, 0]
    return float(np.median(np.log2(rate / peak))), float(np.median(height))
