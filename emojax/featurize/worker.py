"""A process that measures utterances: one JSON object a line in, one out.

    python -m emojax.featurize.worker

The first line is the settings; each that follows names an utterance, and is answered by its
features or by why there are none. A process of its own, as a decoder that meets a hostile file may
take its process with it; computing on one core, as there are several of them. It ends with its
input.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from emojax.interop.vision import VisionEncoder

ONE_CORE = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
}  # fmt: skip
"""Environment of a worker: sums are then taken in the same order however many cores there are."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What shapes features.

    Attributes:
      rate: pictures a second that are looked at.
      faces: "find" or "whole".
      align: "", or how the lag of a recording's pictures behind its sound is estimated, by which
        they are then taken later: "correlation" or "soft_dtw".
      vision: file of a pretrained encoder, "" for plain measures.
      size: rows and columns of the crops for it, 0 for its own.
      frames: of an utterance, one after the other in its features; 0 pools over its time.
      shortest, longest: seconds of an utterance.
      quiet: peak amplitude below which a sound is silence.
      covered: share of an utterance that the recording must have.
    """

    rate: float = 5.0
    faces: str = "find"
    align: str = ""
    vision: str = ""
    size: int = 0
    frames: int = 0
    shortest: float = 0.1
    longest: float = 60.0
    quiet: float = 1e-3
    covered: float = 0.9


def measure(
    path: Path, start: float, end: float | None, settings: Settings, encoder: VisionEncoder | None
) -> dict[str, Any]:
    """What there is of an utterance, as JSON values.

    Returns:
      "audio", "visual": features, or None; "aside": {modality: reason} of what was set aside;
      "absent": modalities of which the recording has no track; "faces": counts; "lag": seconds by
      which pictures were taken later.
    """
    found: dict[str, Any] = {
        "audio": None,
        "visual": None,
        "aside": {},
        "absent": [],
        "faces": None,
        "lag": 0.0,
    }
    reason = _impossible(path, start, end, settings) or _beyond(path, start, end, settings)
    if reason:
        found["aside"] = {"audio": reason, "visual": reason}
        return found
    if settings.align:
        from emojax.featurize import synchrony

        found["lag"] = synchrony.lag_of(path, settings.faces, settings.align)
    _measured(found, "audio", lambda: _audio(path, start, end, settings))
    # Pictures from before the recording begins are not there.
    first = max(start + found["lag"], 0.0)
    last = None if end is None else max(end + found["lag"], first)
    _measured(
        found, "visual", lambda: _visual(found, path, first, last, settings, encoder)
    )  # fmt: skip
    if len(found["absent"]) == 2:
        found["aside"] = dict.fromkeys(("audio", "visual"), "neither sound nor video in it")
    return found


def _measured(found: dict[str, Any], modality: str, of: Callable[[], np.ndarray]) -> None:
    """Put features into `found`, or why there are none."""
    from emojax.featurize import media

    try:
        found[modality] = pack(of())
    except media.Absent:
        found["absent"].append(modality)
    except (media.Broken, _SetAside) as reason:
        found["aside"][modality] = str(reason)


def _impossible(path: Path, start: float, end: float | None, settings: Settings) -> str:
    if not path.is_file():
        return "there is no such file"
    if start < 0 or (end is not None and end <= start):
        return f"mistimed: from {start:g} to {end if end is None else format(end, 'g')} s"
    if end is not None and end - start < settings.shortest:
        return f"too short: {end - start:.3f} s"
    if end is not None and end - start > settings.longest:
        return f"too long: {end - start:.1f} s, mistimed or to be cut"
    return ""


def _beyond(path: Path, start: float, end: float | None, settings: Settings) -> str:
    """Why an utterance does not fit into its recording."""
    from emojax.featurize import media

    try:
        seconds = media.duration(path)
    except media.Broken as broken:
        return str(broken)
    if seconds is None:
        return ""
    there = min(seconds, seconds if end is None else end) - start
    if there <= 0 or (end is not None and there < settings.covered * (end - start)):
        return f"mistimed: the recording is {seconds:.2f} s long"
    if there > settings.longest:
        return f"too long: {there:.1f} s, mistimed or to be cut"
    return ""


class _SetAside(Exception):  # noqa: N818, no error of the program
    """Its text says why."""


def _audio(path: Path, start: float, end: float | None, settings: Settings) -> np.ndarray:
    """Features f32[D].

    Raises:
      media.Absent, media.Broken, _SetAside: there are none.
    """
    from emojax.featurize import measures, media

    sound, rate, count = media.read_sound(path, start, end, settings.longest + 1)
    if reason := _unlike(len(sound) / rate, count / max(len(sound), 1), start, end, settings):
        raise _SetAside(reason)
    if abs(sound).max() < settings.quiet:
        raise _SetAside("silent")
    return measures.audio_features(sound, rate, settings.frames)


def _unlike(
    seconds: float, share: float, start: float, end: float | None, settings: Settings
) -> str:
    """What is wrong with what was read."""
    if not seconds or not share:
        return f"mistimed: the recording ends before {start:g} s"
    if end is None and seconds > settings.longest:
        return f"too long: over {settings.longest:g} s, to be cut"
    if seconds < settings.shortest:
        return f"too short: {seconds:.3f} s"
    if share < settings.covered:
        return f"mistimed or cut off: the recording has {share:.0%} of it"
    return ""


def _visual(
    found: dict[str, Any], path: Path, start: float, end: float | None, settings: Settings,
    encoder: VisionEncoder | None,
) -> np.ndarray:  # fmt: skip
    """Features f32[D]; what there is of faces goes to `found`. Raises as `_audio` does."""
    from emojax.featurize import faces, measures, media

    size = measures.SIZE if encoder is None else encoder.size
    pictures = media.read_pictures(path, start, end, settings.rate, settings.longest)
    face = faces.follow(pictures, size, settings.faces)  # type: ignore[arg-type]
    found["faces"] = {
        "pictures": face.pictures, "with": face.found, "tracks": face.tracks,
        "chosen": len(face.times),
    }  # fmt: skip
    if not face.pictures:
        raise _SetAside(f"mistimed: the video ends before {start:g} s")
    if not len(face.times):
        raise _SetAside(f"no face in any of {face.pictures} pictures")
    edges = None
    if settings.frames:
        last = face.times[-1] + 1 / settings.rate if end is None else end
        edges = np.linspace(start, last, settings.frames + 1)
    return measures.visual_features(face, encoder, edges)


def pack(features: np.ndarray) -> str:
    """f32[D] as text: base64 of little-endian numbers."""
    return base64.b64encode(features.astype("<f4").tobytes()).decode()


def main() -> None:
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = Settings(**json.loads(sys.stdin.readline()))
    encoder = open_encoder(settings)
    for line in sys.stdin:
        task = json.loads(line)
        path = Path(task["path"])
        answer = measure(path, task["start"], task["end"], settings, encoder)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def open_encoder(settings: Settings) -> VisionEncoder | None:
    """The pretrained encoder, if one is wanted; raises what `read_vision_encoder` raises."""
    if not settings.vision:
        return None
    from emojax.interop.vision import read_vision_encoder

    return read_vision_encoder(Path(settings.vision), settings.size or None)


if __name__ == "__main__":
    main()
