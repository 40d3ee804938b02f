"""Sound and pictures of an utterance out of a recording, by PyAV, which brings its own decoder.

An utterance is read by itself: the file is opened, the decoder put before the utterance's start,
and nothing kept but the utterance. So memory does not grow with the recording, and what comes out
depends neither on what was read before nor on who reads it. Needs the extra `media`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from emojax.errors import ConfigError

FORMATS = "wav,w64,aiff,flac,ogg,mp3,aac,mov,matroska,avi,mpegts,mpeg,asf,flv,au,caf"
"""What FFmpeg may take a file for. Playlists are not among them: they name other files."""
SLOWEST, FASTEST = 1_000, 768_000
"""Samples per second that are believed."""
MOST_PIXELS = 1 << 25
_BEFORE = 1.0
"""Seconds before the start at which decoding begins, as many codecs need a run-up."""


class Broken(Exception):  # noqa: N818, it is no error of the program but a reason to set aside
    """A recording that cannot be decoded, or not here; its text says why."""


class Absent(Exception):  # noqa: N818
    """A recording without the wanted kind of stream."""


@dataclasses.dataclass(frozen=True)
class Picture:
    """u8[rows, columns, 3], RGB, shown from `time` on (seconds from the recording's start)."""

    time: float
    pixels: np.ndarray


def load_av() -> Any:
    """The module `av`.

    Raises:
      ConfigError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            f"this needs the package {error.name}: pip install 'emojax[media]'"
        ) from error
    av.logging.set_level(None)
    return av


def duration(path: Path) -> float | None:
    """Seconds that the recording claims to last, or None where it does not say.

    Raises:
      Broken: it is no recording.
    """
    with _container(path) as container:
        return None if container.duration is None else container.duration / 1e6


def read_sound(
    path: Path, start: float, end: float | None, longest: float
) -> tuple[np.ndarray, int, int]:
    """Samples of [start, end), their rate, and how many the recording has of them.

    Args:
      end: None is the recording's end.
      longest: seconds, which are read at most.

    Returns:
      f32[S] in [-1, 1], the mean over channels, zeros where the recording has none; samples per
      second; how many of the S there are.

    Raises:
      Absent: no sound in it.
      Broken: it cannot be decoded.
    """
    with _open(path, "audio") as (container, stream):
        rate = stream.rate or 0
        if not SLOWEST <= rate <= FASTEST:
            raise Broken(f"{rate} samples per second")
        seconds = longest if end is None else min(end - start, longest)
        sound = np.zeros(round(seconds * rate), np.float32)
        there = np.zeros(len(sound), bool)
        to_float = load_av().AudioResampler(format="fltp")
        place = None
        for frame, time in _decoded(container, stream, start):
            for piece in to_float.resample(frame):
                samples = piece.to_ndarray().mean(0, dtype=np.float32)
                # Times are rounded to the container's ticks; a frame that follows goes on.
                wanted = round((time - start) * rate)
                place = wanted if place is None or abs(wanted - place) > rate // 50 else place
                _put(sound, there, samples, place)
                place += len(samples)
            if place is not None and place >= len(sound):
                break
        count = int(there.sum())
        if end is None:
            last = int(np.flatnonzero(there)[-1]) + 1 if count else 0
            sound = sound[:last]
    if not np.isfinite(sound).all():
        raise Broken("samples that are not finite")
    return sound, rate, count


def _put(sound: np.ndarray, there: np.ndarray, samples: np.ndarray, place: int) -> None:
    first, last = max(place, 0), min(place + len(samples), len(sound))
    if first < last:
        sound[first:last] = samples[first - place : last - place]
        there[first:last] = True


def read_pictures(
    path: Path, start: float, end: float | None, rate: float, longest: float
) -> Iterator[Picture]:
    """Of [start, end), `rate` pictures a second: at each tick the first shown then or later.

    A picture that stands for longer than a tick is given once.

    Raises:
      Absent: no video in it.
      Broken: it cannot be decoded.
    """
    stop = start + longest if end is None else min(end, start + longest)
    with _open(path, "video") as (container, stream):
        tick = 0
        for frame, time in _decoded(container, stream, start):
            if time >= stop:
                return
            if frame.width * frame.height > MOST_PIXELS:
                raise Broken(f"pictures of {frame.width} by {frame.height} pixels")
            if time < start + tick / rate - 1e-6:
                continue
            tick = int((time - start) * rate + 1e-6) + 1
            # A telephone held upright notes that its pictures are to be turned.
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), turns)
            yield Picture(time, np.ascontiguousarray(pixels))


@contextlib.contextmanager
def _container(path: Path) -> Iterator[Any]:
    """The open file; whatever fails inside is `Broken`."""
    av = load_av()
    try:
        # A file object, so that its name is no address to FFmpeg, whatever it looks like.
        with (
            path.open("rb") as file,
            av.open(
                file,
                container_options={"format_whitelist": FORMATS},
                metadata_errors="replace",  # titles are in whatever encoding
            ) as container,
        ):
            yield container
    except (av.FFmpegError, OSError, ValueError, EOFError, MemoryError) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Broken(f"cannot be decoded: {words}") from error


@contextlib.contextmanager
def _open(path: Path, kind: str) -> Iterator[tuple[Any, Any]]:
    """The container and its first stream of a kind."""
    with _container(path) as container:
        streams = [each for each in getattr(container.streams, kind) if not _is_cover(each)]
        if not streams:
            raise Absent(f"no {kind} track")
        stream = streams[0]
        if stream.codec_context is None:
            raise Broken(f"{kind} of a codec that is not known")
        stream.codec_context.thread_count = 1
        if kind == "video":
            size = stream.codec_context.width * stream.codec_context.height
            if size > MOST_PIXELS:
                raise Broken("pictures of too many pixels")
        yield container, stream


def _is_cover(stream: Any) -> bool:
    """A picture that decorates a sound file."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _decoded(container: Any, stream: Any, start: float) -> Iterator[tuple[Any, float]]:
    """(frame, seconds from the recording's start), from one that ends not before `start` on."""
    base, origin = stream.time_base or Fraction(1, 1000), (container.start_time or 0) / 1e6
    if start > _BEFORE:
        target = start - _BEFORE
        container.seek(int((target + origin) / base), stream=stream)
        first = next(_timed(container, stream, base, origin), None)
        # An index that is wrong or missing puts the decoder behind the start, or nowhere.
        landed = first is not None and first[1] <= start
        container.seek(int((target + origin) / base) if landed else 0, stream=stream)
    yield from _timed(container, stream, base, origin)


def _timed(
    container: Any, stream: Any, base: Fraction, origin: float
) -> Iterator[tuple[Any, float]]:
    after = None
    for frame in container.decode(stream):
        if frame.pts is not None:
            after = float(frame.pts * base) - origin
        elif after is None:
            after = 0.0
        yield frame, after
        if frame.pts is None:
            after += frame.samples / frame.sample_rate if hasattr(frame, "samples") else 0.04
