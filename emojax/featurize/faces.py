"""Whose face it is: found in every picture by OpenCV's cascade, followed over pictures, one chosen.

The cascade (P. Viola and M. Jones, IJCV 57(2), 2004) ships inside the package
opencv-python-headless of versions 4. Faces of neighbouring pictures that overlap are one track; the
track that covers the most, added up over its pictures, is the utterance's face. So a large or
lasting face wins over a small or passing one; among equals the more central one, then the one that
was there first. Needs the extra `media`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emojax.errors import ConfigError
from emojax.featurize.media import Picture

CASCADE = "haarcascade_frontalface_alt2.xml"
MOST_FACES = 4
"""In a picture; the largest count."""
_SEARCHED = 480
"""Longer side of the picture that is searched; larger ones are made smaller."""
_OVERLAP = 0.3
"""Intersection over union of one and the same face in neighbouring pictures."""
_GAP = 1.0
"""Seconds that a track may go without its face."""
_AROUND = 1.3
"""Side of the crop over that of the face found."""


@dataclasses.dataclass(frozen=True, eq=False)
class Face:
    """The face of an utterance.

    Attributes:
      times: f64[T] seconds from the recording's start, of the pictures that show it.
      boxes: f64[T, 3]: its middle, column and row, and its side, over the picture's shorter side.
      crops: u8[T, size, size, 3].
      pictures: how many were searched.
      found: in how many of them there was any face.
      tracks: how many faces there were over all.
    """

    times: np.ndarray
    boxes: np.ndarray
    crops: np.ndarray
    pictures: int
    found: int
    tracks: int


@dataclasses.dataclass(eq=False)
class _Track:
    times: list[float]
    boxes: list[tuple[float, float, float]]
    crops: list[np.ndarray]


def load_cv() -> Any:
    """The module `cv2`, single-threaded: workers are processes, and sums keep their order.

    Raises:
      ConfigError: it is not installed, or without cascades.
    """
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"this needs the package {error.name}: pip install 'emojax[media]'"
        ) from error
    if not hasattr(cv2, "CascadeClassifier"):
        raise ConfigError(
            f"OpenCV {cv2.__version__} has no cascades: pip install 'opencv-python-headless<5'"
        )
    cv2.setNumThreads(1)
    return cv2


def follow(pictures: Iterable[Picture], size: int, faces: Literal["find", "whole"]) -> Face:
    """The face of an utterance, of T = 0 pictures if there is none.

    Args:
      pictures: in order; looked at one after the other, and only crops kept.
      size: rows and columns of the crops.
      faces: "find" them, or take the middle of the "whole" picture for one.
    """
    tracks: list[_Track] = []
    count = found = 0
    for picture in pictures:
        count += 1
        boxes = _whole(picture.pixels) if faces == "whole" else _find(picture.pixels)
        found += bool(boxes)
        open_ = [each for each in tracks if picture.time - each.times[-1] <= _GAP]
        for box, track in _matched(boxes, open_):
            if track is None:
                tracks.append(track := _Track([], [], []))
            track.times.append(picture.time)
            track.boxes.append(box)
            track.crops.append(
                _crop(picture.pixels, box, size, 1.0 if faces == "whole" else _AROUND)
            )
    if not tracks:
        return Face(
            np.zeros(0), np.zeros((0, 3)), np.zeros((0, size, size, 3), np.uint8), count, found, 0
        )
    chosen = max(tracks, key=_rank)  # the first of equals
    return Face(
        np.array(chosen.times), np.array(chosen.boxes), np.stack(chosen.crops), count, found,
        len(tracks),
    )  # fmt: skip


def largest(pixels: np.ndarray, size: int, faces: Literal["find", "whole"]) -> np.ndarray | None:
    """u8[size, size, 3], the largest face of a picture by itself, if there is one."""
    boxes = _whole(pixels) if faces == "whole" else _find(pixels)
    around = 1.0 if faces == "whole" else _AROUND
    return _crop(pixels, boxes[0], size, around) if boxes else None


def _rank(track: _Track) -> tuple[float, float]:
    area = sum(side * side for _, _, side in track.boxes)
    away = sum(math.hypot(column, row) for column, row, _ in track.boxes) / len(track.boxes)
    return round(area, 9), -round(away, 9)


def _matched(
    boxes: list[tuple[float, float, float]], tracks: list[_Track]
) -> list[tuple[tuple[float, float, float], _Track | None]]:
    """Each box with the track it goes on with; the pairs that overlap most come first."""
    pairs = sorted(
        (-_overlap(box, track.boxes[-1]), i, j)
        for i, box in enumerate(boxes)
        for j, track in enumerate(tracks)
    )
    taken: dict[int, int] = {}
    for negative, i, j in pairs:
        if -negative >= _OVERLAP and i not in taken and j not in taken.values():
            taken[i] = j
    return [(box, tracks[taken[i]] if i in taken else None) for i, box in enumerate(boxes)]


def _overlap(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    sides = [
        min(a[axis] + a[2] / 2, b[axis] + b[2] / 2) - max(a[axis] - a[2] / 2, b[axis] - b[2] / 2)
        for axis in (0, 1)
    ]
    both = max(sides[0], 0) * max(sides[1], 0)
    return both / (a[2] ** 2 + b[2] ** 2 - both)


def _whole(pixels: np.ndarray) -> list[tuple[float, float, float]]:
    return [(0.0, 0.0, 1.0)]


def _find(pixels: np.ndarray) -> list[tuple[float, float, float]]:
    """Faces, the largest first: how far right of and below the middle, and how wide."""
    cv2 = load_cv()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = min(1.0, _SEARCHED / max(grey.shape))
    if scale < 1:
        shape = tuple(max(1, round(side * scale)) for side in reversed(grey.shape))
        grey = cv2.resize(grey, shape, interpolation=cv2.INTER_AREA)
    rows, columns = grey.shape
    shorter = min(rows, columns)
    least = max(20, shorter // 10)
    found = _cascade().detectMultiScale(
        grey, scaleFactor=1.1, minNeighbors=3, minSize=(least, least)
    )
    boxes = [
        ((x + w / 2 - columns / 2) / shorter, (y + h / 2 - rows / 2) / shorter, w / shorter)
        for x, y, w, h in (map(float, each) for each in found)
    ]
    return sorted(boxes, key=lambda box: (-box[2], math.hypot(box[0], box[1]), box))[:MOST_FACES]


@functools.lru_cache(maxsize=1)
def _cascade() -> Any:
    cv2 = load_cv()
    return cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / CASCADE))


def _crop(
    pixels: np.ndarray, box: tuple[float, float, float], size: int, around: float
) -> np.ndarray:
    """u8[size, size, 3] around a face; what lies beyond the picture is as its edge."""
    cv2 = load_cv()
    rows, columns = pixels.shape[:2]
    shorter = min(rows, columns)
    side = max(2, round(box[2] * shorter * around))
    left = round(columns / 2 + box[0] * shorter - side / 2)
    top = round(rows / 2 + box[1] * shorter - side / 2)
    inner = pixels[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)]
    beyond = (
        max(-top, 0), max(top + side - rows, 0), max(-left, 0), max(left + side - columns, 0)
    )  # fmt: skip
    if any(beyond):
        inner = cv2.copyMakeBorder(inner, *beyond, cv2.BORDER_REPLICATE)
    way = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return cv2.resize(inner, (size, size), interpolation=way)
