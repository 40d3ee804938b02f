"""Small recordings of our own making: a drawn face that moves its mouth to a tone."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

HEADER = ("dialogue", "speaker", "start", "end", "text", "label", "media")
RATE, FPS = 16_000, 10


def face(
    pixels: np.ndarray, middle: tuple[float, float], size: float, mouth: float = 0.3
) -> np.ndarray:
    """Draws a face that the cascade finds into u8[rows, columns, 3], at (column, row)."""

    def ellipse(dx: float, dy: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        at = (int(middle[0] + dx * size), int(middle[1] + dy * size))
        radii = (max(1, int(rx * size)), max(1, int(ry * size)))
        cv2.ellipse(pixels, at, radii, 0, 0, 360, colour, -1, cv2.LINE_AA)

    ellipse(0, -0.1, 0.42, 0.55, (60, 40, 30))
    ellipse(0, 0.02, 0.36, 0.48, (224, 180, 150))
    for side in (-1, 1):
        ellipse(side * 0.16, -0.08, 0.11, 0.055, (150, 110, 90))
        ellipse(side * 0.16, -0.08, 0.085, 0.04, (245, 245, 245))
        ellipse(side * 0.16, -0.08, 0.04, 0.04, (40, 25, 20))
        ellipse(side * 0.16, -0.17, 0.11, 0.03, (70, 45, 35))
    ellipse(0, 0.08, 0.035, 0.12, (240, 205, 180))
    ellipse(0, 0.16, 0.07, 0.025, (170, 120, 100))
    ellipse(0, 0.29, 0.14, 0.03 + 0.1 * mouth, (140, 60, 60))
    return pixels


def blank(rows: int = 120, columns: int = 160) -> np.ndarray:
    return np.full((rows, columns, 3), 90, np.uint8)


def talking(seconds: float, size: float = 80) -> list[np.ndarray]:
    """A face that talks, `FPS` pictures a second."""
    mouths = 0.5 + 0.5 * np.sin(np.arange(round(seconds * FPS)))
    return [face(blank(), (80, 60), size, mouth) for mouth in mouths]


def tone(seconds: float, hertz: float = 180.0, level: float = 0.3) -> np.ndarray:
    """f32[S] with overtones, as voices have."""
    time = np.arange(round(seconds * RATE)) / RATE
    waves = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
    return (level / 2 * waves).astype(np.float32)


def record(path: Path, sound: np.ndarray | None, pictures: Sequence[np.ndarray] = ()) -> Path:
    """Writes a recording in the container that the name asks for."""
    lossy = path.suffix in (".mp4", ".mkv")
    with av.open(str(path), "w") as container:
        streams = []
        if pictures:
            video = container.add_stream(
                "mpeg4" if lossy or path.suffix == ".avi" else "mjpeg", FPS
            )
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt, video.bit_rate = "yuv420p", 2_000_000
            streams.append(video)
        if sound is not None:
            audio = container.add_stream("aac" if lossy else "pcm_s16le", RATE)
            audio.layout = "mono"
            streams.append(audio)
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = place
            container.mux(video.encode(frame))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.rate, frame.pts = RATE, 0
            container.mux(audio.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    return path


def write_manifest(
    path: Path, rows: Sequence[Mapping[str, Any]], header: Sequence[str] = HEADER
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header)
        writer.writeheader()
        writer.writerows(rows)
    return path


def row(dialogue: str, start: Any, end: Any, media: str, **changes: Any) -> dict[str, Any]:
    known = {"speaker": "Ann", "text": "Well, well.", "label": "glad"}
    return {"dialogue": dialogue, "start": start, "end": end, "media": media} | known | changes


def make_corpus(folder: Path) -> Path:
    """Five dialogues, twelve utterances, most kinds of trouble; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    record(folder / "a.mp4", tone(5), talking(5))
    record(folder / "b.avi", tone(3, 240), [blank()] * 30)
    record(folder / "c.wav", np.concatenate([tone(1, 120), np.zeros(2 * RATE, np.float32)]))
    record(folder / "d.mkv", None, talking(2))
    (folder / "broken.mp4").write_bytes((folder / "a.mp4").read_bytes()[:4000])
    (folder / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\na.mp4\n")
    rows = [
        row("one", 0.0, 1.0, "a.mp4"),
        row("one", 1.0, 2.0, "a.mp4", speaker="Bob", label="sad", text="Oh, \"no\"."),
        row("one", 2.5, 4.0, "a.mp4", label=""),
        row("one", 4.0, 9.0, "a.mp4"),
        row("two", 0.0, 1.0, "b.avi", label="sad"),
        row("two", 1.0, 1.02, "b.avi", text=""),
        row("three", "", "", "d.mkv", label="sad"),
        row("three", 0.0, 1.0, "c.wav"),
        row("three", 1.5, 2.5, "c.wav", text=""),
        row("four", 0.0, 1.0, "broken.mp4"),
        row("four", 0.0, 1.0, "missing.wav", label="sad"),
        row("five", 0.0, 1.0, "list.mp4"),
    ]  # fmt: skip
    return write_manifest(folder / "manifest.csv", rows)
