"""Drawn faces: a head with brows, eyes and a mouth, moved by a few numbers a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from emojax.data.media_simulator.scene import Scene
from emojax.data.media_simulator.voice import Speech

TOGETHER = 64
"""Frames drawn at once; memory stays flat whatever the length."""
_SKIN = np.array([(224, 172, 138), (141, 96, 72), (198, 140, 104), (240, 198, 170)], np.float32)
_DARK, _WHITE = np.array((52, 32, 28), np.float32), np.array((244, 244, 240), np.float32)
_INSIDE, _LIP = np.array((84, 16, 22), np.float32), np.array((176, 72, 76), np.float32)


class Pose(NamedTuple):
    """What is seen in each of F frames.

    Attributes:
      who: int[F], the speaker on the picture.
      look: f64[F, 4]: corners of the mouth up, brows up, inner brows down, eyes open.
      mouth: f64[F], 0 closed to 1.
      sway: f64[F, 2], the head's place in shares of the picture.
    """

    who: np.ndarray
    look: np.ndarray
    mouth: np.ndarray
    sway: np.ndarray


def poses(scene: Scene, speech: Speech, fps: int) -> Pose:
    """The camera shows whoever speaks, with the scene's lag behind the sound."""
    frames = int(np.floor(scene.seconds * fps))
    t = np.arange(frames) / fps - scene.lag
    # The picture changes in the middle of a pause, and the look within a tenth of a second.
    turns = (scene.end[:-1] + scene.start[1:]) / 2
    now = np.searchsorted(turns, t, "right")
    speaks = (t >= scene.start[now] - 0.1) & (t <= scene.end[now] + 0.1)
    look = np.where(speaks[:, None], scene.face[now], 0.3 * scene.face[now])
    look = np.where((t < 0)[:, None], 0.0, look)
    draw = scene.draw(1000)
    drift = np.cumsum(draw.normal(0, 0.004, (frames, 2)), 0) * 0.98 ** np.arange(frames)[:, None]
    look = look + 0.15 * draw.standard_normal((frames, 4))
    blink = draw.random(frames) < 0.25 / fps
    blink |= np.roll(blink, 1) | np.roll(blink, 2)
    look[blink, 3] = -4.0
    return Pose(
        who=scene.speaker[now], look=look,
        mouth=np.where(t < 0, 0.0, np.interp(t, speech.times, speech.open)),
        sway=np.clip(drift, -0.04, 0.04),
    )  # fmt: skip


def draw_faces(pose: Pose, size: int) -> Iterator[np.ndarray]:
    """u8[n, size, size, 3], a few frames at a time."""
    for first in range(0, len(pose.who), TOGETHER):
        yield _draw(Pose(*(x[first : first + TOGETHER] for x in pose)), size)


def _draw(pose: Pose, size: int) -> np.ndarray:
    """Edges are soft over a pixel, so that moves below a pixel show."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    sway = pose.sway.astype(np.float32) * 2
    smile, brows, frown, eyes = (c.astype(np.float32)[:, None, None] for c in pose.look.T)
    mouth, who = pose.mouth.astype(np.float32)[:, None, None], pose.who
    shade = 40 * axis[:, None, None] + np.array((130, 140, 150), np.float32)
    picture = np.broadcast_to(shade, (len(who), size, size, 3)).astype(np.float32)

    # Each part is drawn where it can be, not over the whole picture.
    def place(top: float, bottom: float, left: float, right: float):
        rows, columns = (
            slice(*np.searchsorted(axis, ends)) for ends in ((top, bottom), (left, right))
        )
        x = axis[None, None, columns] - sway[:, :1, None]
        y = axis[None, rows, None] - sway[:, 1:, None]
        return x, y, picture[:, rows, columns]

    def paint(part: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> None:
        """Over pixels inside a shape, from which the distance is negative there."""
        inside = np.clip(0.5 - distance * (size / 2), 0, 1)[..., None]
        colour = colour if colour.ndim == 1 else colour[:, None, None]
        part += inside * (colour - part)

    x, y, part = place(-1, 1, -1, 1)
    wide = (0.62 + 0.05 * (who % 3)).astype(np.float32)[:, None, None]
    paint(part, (np.sqrt((x / wide) ** 2 + (y / 0.82) ** 2) - 1) * 0.7, _SKIN[who % len(_SKIN)])
    for side in (-1.0, 1.0):
        x, y, part = place(-0.75, 0.1, min(side, 0), max(side, 0))
        u = x - 0.27 * side
        opened = np.clip(0.075 + 0.022 * eyes, 0.012, 0.15)
        white = (np.sqrt((u / 0.14) ** 2 + ((y + 0.18) / opened) ** 2) - 1) * opened
        paint(part, white, _WHITE)
        paint(part, np.maximum(np.sqrt(u**2 + (y + 0.18) ** 2) - 0.05, white), _DARK)
        # Frowning lowers the ends towards the nose.
        line = y + 0.38 + 0.035 * brows - 0.028 * frown * (-side * u / 0.16)
        paint(part, np.maximum(np.abs(line) - 0.026, np.abs(u) - 0.17), _DARK)
    x, y, part = place(0, 0.95, -0.6, 0.6)
    across = x / (0.26 + 0.02 * smile - 0.04 * mouth)
    middle = np.abs(y - 0.42 + 0.06 * smile * (across**2 - 0.4))
    half = (0.02 + 0.16 * mouth) * np.sqrt(np.clip(1 - across**2, 0, 1))
    paint(part, np.maximum(middle - half - 0.025, np.abs(across) * 0.26 - 0.26), _LIP)
    paint(part, np.maximum(middle - half, np.abs(across) * 0.26 - 0.25), _INSIDE)
    return np.rint(np.clip(picture, 0, 255)).astype(np.uint8)
