"""Sound and pictures come from where the manifest says, whatever the container."""

from __future__ import annotations

import contextlib
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest

from emojax.featurize import media
from tests.featurize.recordings import FPS, RATE, record, tone

LONGEST = 60.0


def clicks(seconds: int) -> np.ndarray:
    """A tenth of a second of tone at the start of every second, higher from one to the next."""
    sound = np.zeros(seconds * RATE, np.float32)
    for second in range(seconds):
        sound[second * RATE :][: RATE // 10] = tone(0.1, 200 + 40 * second)
    return sound


def shades(seconds: int) -> list[np.ndarray]:
    return [np.full((48, 64, 3), 40 + 20 * (i // FPS), np.uint8) for i in range(seconds * FPS)]


@pytest.fixture(scope="module", params=[".wav", ".avi", ".mp4", ".mkv"])
def recording(request, tmp_path_factory) -> Path:
    pictures = () if request.param == ".wav" else shades(8)
    return record(tmp_path_factory.mktemp("media") / f"r{request.param}", clicks(8), pictures)


@pytest.mark.parametrize("start", [0.0, 0.5, 3.5, 6.25])
def test_sound_is_that_of_its_time(recording: Path, start: float):
    sound, rate, count = media.read_sound(recording, start, start + 1.5, LONGEST)
    assert (len(sound), rate) == (1.5 * RATE, RATE)
    assert count >= 0.99 * len(sound)
    lossless = recording.suffix in (".wav", ".avi")
    loud = np.flatnonzero(np.abs(sound) > 0.1) / RATE + start
    for second in range(8):
        inside = (loud > second - 0.01) & (loud < second + 0.12)
        # A click that lies wholly inside is there, in its place.
        if start <= second <= start + 1.38:
            assert inside.sum() > 500
            assert abs(loud[inside].min() - second) < (0.001 if lossless else 0.02)
    wanted = clicks(8)[round(start * RATE) :][: len(sound)]
    if lossless:
        np.testing.assert_allclose(sound, wanted, atol=1e-3)
    else:
        assert np.corrcoef(sound, wanted)[0, 1] > 0.98


def test_pictures_are_those_of_their_ticks(recording: Path):
    if recording.suffix == ".wav":
        with pytest.raises(media.Absent, match="no video"):
            list(media.read_pictures(recording, 0, 1, 5, LONGEST))
        return
    for start in (0.0, 2.3, 5.7):
        found = list(media.read_pictures(recording, start, start + 2, 4, LONGEST))
        assert len(found) == 8
        for tick, picture in enumerate(found):
            assert 0 <= picture.time - (start + tick / 4) <= 1 / FPS + 1e-6
            shade = 40 + 20 * int(picture.time + 1e-6)
            assert abs(picture.pixels.mean() - shade) < 8, (start, picture.time)
        # No more pictures than there are, each once.
        every = [each.time for each in media.read_pictures(recording, start, start + 1, 99, 60)]
        assert len(every) == len(set(every)) == FPS


def test_an_open_end_is_that_of_the_recording(recording: Path):
    sound, _, count = media.read_sound(recording, 6.0, None, LONGEST)
    assert count == pytest.approx(2 * RATE, abs=0.1 * RATE)
    assert len(sound) == pytest.approx(2 * RATE, abs=0.1 * RATE)
    assert len(media.read_sound(recording, 6.0, None, 0.5)[0]) == RATE // 2
    assert media.duration(recording) == pytest.approx(8, abs=0.1)
    assert media.read_sound(recording, 20.0, 21.0, LONGEST)[2] == 0


def test_memory_does_not_grow_with_the_recording(tmp_path: Path):
    path = tmp_path / "long.wav"
    hour = np.zeros(8000 * 60, np.uint8) + 128
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        for minute in range(60):
            hour[:] = 128 + minute
            file.writeframes(hour.tobytes())
    tracemalloc.start()
    sound, rate, count = media.read_sound(path, 3590.0, 3592.0, LONGEST)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (rate, count) == (8000, 16000)
    np.testing.assert_allclose(sound, 59 / 128, atol=1e-3)
    assert most < 2e6, f"{most} bytes for {sound.nbytes} of sound"


def test_a_title_in_another_encoding_is_no_damage(tmp_path: Path):
    path = record(tmp_path / "t.wav", tone(1))
    title = "Gespräch".encode("latin-1") + b"\0\0"
    chunk = b"INFO" + b"INAM" + len(title).to_bytes(4, "little") + title
    data = path.read_bytes()
    inside = data[12:] + b"LIST" + len(chunk).to_bytes(4, "little") + chunk
    path.write_bytes(data[:4] + (4 + len(inside)).to_bytes(4, "little") + b"WAVE" + inside)
    assert media.read_sound(path, 0, 1, LONGEST)[2] == RATE


def test_pictures_that_are_to_be_turned_are_turned(tmp_path: Path):
    left = np.zeros((48, 64, 3), np.uint8)
    left[:, :32] = 220
    path = record(tmp_path / "r.mp4", None, [left] * 5)
    data = path.read_bytes()
    one = (1 << 16).to_bytes(4, "big")
    plain = [one, *[bytes(4)] * 3, one, *[bytes(4)] * 3, (1 << 30).to_bytes(4, "big")]
    turned = [*plain]  # by a quarter, clockwise
    turned[0], turned[1] = bytes(4), one
    turned[3], turned[4] = (-(1 << 16)).to_bytes(4, "big", signed=True), bytes(4)
    head, track = data.split(b"tkhd")
    assert track.count(b"".join(plain)) == 1
    path.write_bytes(head + b"tkhd" + track.replace(b"".join(plain), b"".join(turned)))
    picture = next(iter(media.read_pictures(path, 0, 0.5, 5, LONGEST)))
    assert picture.pixels.shape == (64, 48, 3)
    assert picture.pixels[:24].mean() > 180 > 60 > picture.pixels[40:].mean()


@pytest.mark.parametrize("name", ["list.m3u8", "list.mp4"])
def test_a_playlist_is_not_followed(tmp_path: Path, name: str):
    record(tmp_path / "secret.wav", tone(1))
    (tmp_path / name).write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n"
    )
    with pytest.raises(media.Broken, match="cannot be decoded"):
        media.duration(tmp_path / name)
    (tmp_path / name).write_text("ffconcat version 1.0\nfile secret.wav\n")
    with pytest.raises(media.Broken, match="cannot be decoded"):
        media.read_sound(tmp_path / name, 0, 1, LONGEST)


def test_any_rubbish_is_a_reason_and_nothing_worse(tmp_path: Path):
    whole = record(tmp_path / "whole.avi", tone(1), shades(1)).read_bytes()
    draw = np.random.default_rng(0)
    path = tmp_path / "spoilt.avi"
    for _ in range(100):
        data = bytearray(whole[: draw.integers(1, len(whole))])
        for place in draw.integers(0, len(data), 30):
            data[place] = draw.integers(256)
        path.write_bytes(data)
        # Whatever else is raised fails the test.
        with contextlib.suppress(media.Broken, media.Absent):
            assert np.isfinite(media.read_sound(path, 0, 1, LONGEST)[0]).all()
        with contextlib.suppress(media.Broken, media.Absent):
            pictures = list(media.read_pictures(path, 0, 1, 5, LONGEST))
            assert all(each.pixels.ndim == 3 for each in pictures)
