"""Sound from wav files: every encoding on one scale, any rate, and files that are none."""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import wavfile

from emojax.data.wav import read_wav, resampled
from emojax.errors import DataError

RATE = 8000
TONE = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2000) / RATE)

ENCODED = {
    "u8": (TONE * 128 + 128).astype(np.uint8),
    "i16": (TONE * 2**15).astype(np.int16),
    "i32": (TONE * 2**31).astype(np.int32),
    "f32": TONE.astype(np.float32),
    "f64": TONE,
}


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_encoding_is_the_same_sound(tmp_path, encoding, channels):
    path = tmp_path / "a.wav"
    sound = ENCODED[encoding]
    # The mean over channels: the second is silent, which is 128 in 8 bits.
    silence = np.full_like(sound, 128 if encoding == "u8" else 0)
    wavfile.write(path, RATE, sound if channels == 1 else np.stack([sound, silence], 1))
    found = read_wav(path, RATE)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, TONE / channels, atol=0.01 if encoding == "u8" else 1e-4)


@pytest.mark.parametrize(("old", "new"), [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000)])
def test_another_rate_is_the_same_tone(old, new):
    seconds = 0.2
    sound = np.sin(2 * np.pi * 1000 * np.arange(int(old * seconds)) / old)
    found = resampled(sound, old, new)
    assert len(found) == -(-len(sound) * new // old)
    wanted = np.sin(2 * np.pi * 1000 * np.arange(len(found)) / new)
    # The filter rings where the tone begins and ends.
    np.testing.assert_allclose(found[200:-200], wanted[200:-200], atol=2e-3)


def whole() -> bytes:
    data = ENCODED["i16"].tobytes()
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1,
                       RATE, 2 * RATE, 2, 16)  # fmt: skip
    return head + struct.pack("<4sI", b"data", len(data)) + data


def changed(at: int, form: str, value: int) -> bytes:
    content = bytearray(whole())
    struct.pack_into(form, content, at, value)
    return bytes(content)


HOSTILE = {
    "empty": b"",
    "text": b"id,speaker\n1,2\n",
    "head alone": whole()[:44],
    "cut off": whole()[:-1001],
    "no data": whole()[:36],
    "no rate": changed(24, "<I", 0),
    "any rate": changed(24, "<I", 2**32 - 1),
    "no channels": changed(22, "<H", 0),
    "many channels": changed(22, "<H", 65535),
    "another encoding": changed(20, "<H", 85),
    "odd width": changed(34, "<H", 77),
    "a sample short": whole()[:-2],
    "more data than there is": changed(40, "<I", 2**31 - 2),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_no_sound_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "bad.wav"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(DataError, match=r"bad\.wav"):
        read_wav(path, RATE)


def test_values_that_are_not_finite_and_files_that_are_not_there(tmp_path):
    wavfile.write(tmp_path / "bad.wav", RATE, np.array([0, np.nan, 1], np.float32))
    for path, problem in ((tmp_path / "bad.wav", "not finite"), (tmp_path / "no.wav", "No such"),
                          (tmp_path, "directory")):  # fmt: skip
        with pytest.raises(DataError, match=problem):
            read_wav(path, RATE)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 47), value=st.integers(0, 255))
def test_a_damaged_header_gives_sound_or_an_error_of_ours(tmp_path_factory, at, value):
    path = tmp_path_factory.getbasetemp() / "damaged.wav"
    content = bytearray(whole())
    content[at] = value
    path.write_bytes(bytes(content))
    with contextlib.suppress(DataError):
        assert np.isfinite(read_wav(path, RATE)).all()
