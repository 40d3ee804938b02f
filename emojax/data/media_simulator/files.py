"""Recordings as files: media, `manifest.csv` that `emojax featurize` reads, `truth.json`.

The folder can be written again into itself: what is there already is not made again, so a killed
run loses nothing. `simulator.json` holds the config, and another config is refused.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import io
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import wavfile

from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.face import draw_faces, poses
from emojax.data.media_simulator.scene import Scene, posterior, scene
from emojax.data.media_simulator.spoil import noisy_frames, noisy_sound, tracks
from emojax.data.media_simulator.voice import speak
from emojax.data.progress import progress
from emojax.errors import ConfigError
from emojax.files import write_atomically

COLUMNS = ("dialogue", "speaker", "start", "end", "text", "label", "media", "split")
"""Of the manifest; times in seconds, `media` relative to the manifest."""
SPLITS = ("train", "train", "train", "train", "validation", "test")
"""Of one conversation after the other, over and over."""
MANIFEST, TRUTH, CONFIG = "manifest.csv", "truth.json", "simulator.json"


def simulate_media(config: MediaConfig, out: Path) -> Path:
    """Write a corpus, or go on with one; returns the manifest's path.

    Frames need PyAV (extra `media`); without it there is sound alone, and a warning says so.

    Raises:
      ConfigError: another config wrote the folder, or it holds other things.
      DataError: a file cannot be written.
    """
    can_film = importlib.util.find_spec("av") is not None
    if not can_film:
        warnings.warn(
            "PyAV is not installed, so there will be sound and no frames; "
            "pip install 'emojax[media]'", stacklevel=2,
        )  # fmt: skip
    _claim(config, out, can_film)
    rows: list[tuple[str, ...]] = []
    truth: list[dict[str, Any]] = []
    with progress("Simulating recordings", config.conversations) as done:
        for number in range(config.conversations):
            each = scene(number, config)
            sound, frames = tracks(each, config)
            frames &= can_film
            name = each.id + (".mkv" if frames else ".wav")
            if not (out / name).exists():
                _record(each, config, out / name, sound=sound, frames=frames)
            rows += _rows(each, config, name, SPLITS[number % len(SPLITS)])
            truth.append(_truth(each, config, sound, frames))
            done(1)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
    write_atomically(out / TRUTH, json.dumps(truth, indent=1) + "\n")
    return write_atomically(out / MANIFEST, text.getvalue())


def _claim(config: MediaConfig, out: Path, can_film: bool) -> None:
    """The folder is this config's from now on."""
    known = dataclasses.asdict(config) | {"frames": can_film}
    # JSON has no infinity; nothing else here is null.
    known = {name: None if value == math.inf else value for name, value in known.items()}
    content = json.dumps(known, indent=1) + "\n"
    path = out / CONFIG
    if path.exists():
        if path.read_text(encoding="utf-8") != content:
            raise ConfigError(
                f"{out} was made with other settings. Name another folder, or delete this one"
            )
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} holds other files. Name a folder that is empty or not there")
    else:
        write_atomically(path, content)


def _record(each: Scene, config: MediaConfig, path: Path, *, sound: bool, frames: bool) -> None:
    speech = speak(each, config.rate)
    samples = noisy_sound(speech.sound, each, config) if sound else np.zeros_like(speech.sound)
    samples = np.rint(np.clip(samples, -1, 1) * 32767).astype(np.int16)
    if not frames:
        held = io.BytesIO()
        wavfile.write(held, config.rate, samples)
        write_atomically(path, held.getvalue())
        return
    drawn = noisy_frames(draw_faces(poses(each, speech, config.fps), config.size), each, config)
    temporary = path.with_name(f".{path.name}")
    _film(temporary, drawn, samples if sound else None, config)
    temporary.replace(path)


def _film(
    path: Path, parts: Iterable[np.ndarray], samples: np.ndarray | None, config: MediaConfig
) -> None:
    """Matroska with MPEG-4 frames and uncompressed sound, the same bytes each time."""
    import av

    exact = {"fflags": "+bitexact"}
    with av.open(str(path), "w", format="matroska", options=exact) as container:
        video = container.add_stream("mpeg4", rate=config.fps)
        video.width = video.height = config.size
        video.pix_fmt = "yuv420p"
        video.options = {"qmin": "2", "qmax": "3", "flags": "+bitexact"}
        video.codec_context.thread_count = 1
        audio = None
        if samples is not None:
            audio = container.add_stream("pcm_s16le", rate=config.rate, layout="mono")
        taken = shown = 0
        for part in parts:
            for picture in part:
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = shown, Fraction(1, config.fps)
                container.mux(video.encode(frame))
                shown += 1
            if samples is not None:
                until = min(shown * config.rate // config.fps, len(samples))
                for packet in _packets(samples[taken:until], taken, audio, config):
                    container.mux(packet)
                taken = until
        if samples is not None:
            for packet in _packets(samples[taken:], taken, audio, config):
                container.mux(packet)
            container.mux(audio.encode(None))  # type: ignore[union-attr]
        container.mux(video.encode(None))


def _packets(samples: np.ndarray, first: int, stream: Any, config: MediaConfig) -> Iterator[Any]:
    import av

    if len(samples):
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = config.rate, first
        frame.time_base = Fraction(1, config.rate)
        yield stream.encode(frame)


def _rows(each: Scene, config: MediaConfig, name: str, split: str) -> list[tuple[str, ...]]:
    return [
        (
            each.id, "ABC"[each.speaker[k]], f"{each.start[k]:.3f}", f"{each.end[k]:.3f}",
            each.text[k], config.process.labels[each.emotion[k]], name, split,
        )
        for k in range(len(each))
    ]  # fmt: skip


def _truth(each: Scene, config: MediaConfig, sound: bool, frames: bool) -> dict[str, Any]:
    """What nobody is told who only sees and hears; see `scene.posterior`."""
    emotion, sarcastic = posterior(each, config)
    return {
        "dialogue": each.id, "lag": round(each.lag, 6), "sound": sound, "frames": frames,
        "sarcastic": each.sarcastic.tolist(), "said": [config.process.labels[e] for e in each.said],
        "posterior": np.round(emotion, 6).tolist(),
        "posterior_sarcastic": np.round(sarcastic, 6).tolist(),
        "voice": np.round(each.voice, 4).tolist(), "face": np.round(each.face, 4).tolist(),
    }  # fmt: skip
