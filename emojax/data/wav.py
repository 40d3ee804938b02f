"""Sound from wav files, at the rate and with the one channel that a model listens to."""

from __future__ import annotations

import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np
from scipy.io import wavfile
from scipy.signal import resample_poly

from emojax.errors import DataError

SLOWEST, FASTEST = 1_000, 768_000
"""Samples per second that a file may claim; others are no sound or a trap."""
_UNKNOWN = 2**32 - 1


def read_wav(path: Path, rate: int) -> np.ndarray:
    """f32[S] between -1 and 1 at `rate` samples per second, the mean over channels.

    PCM of 8 to 64 bits and floating point, of any rate, whatever the file's name.

    Raises:
      DataError: the file is missing, no wav file, cut off, silent of samples or not finite.
    """
    fix = "Convert it to PCM wav again"
    try:
        with warnings.catch_warnings():
            # Chunks that nobody knows are skipped; a data chunk that is cut off is no small matter.
            warnings.simplefilter("error", wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", "Chunk .*not understood")
            theirs, sound = wavfile.read(path)
        _refuse_cut_off(path)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", file=path) from error
    except Exception as error:  # a damaged header ends in whatever its numbers lead to
        raise DataError(f"not a whole wav file ({error})", file=path, fix=fix) from error
    if not SLOWEST <= theirs <= FASTEST:
        raise DataError(
            f"{theirs} samples per second, where {SLOWEST} to {FASTEST} are believed",
            file=path, field="sample rate", fix=fix,
        )  # fmt: skip
    if sound.size == 0:
        raise DataError("no samples", file=path, field="data", fix="Leave it out or record again")
    sound = _unit(sound)
    if sound.ndim == 2:
        sound = sound.mean(1)
    if not np.isfinite(sound).all():
        raise DataError("samples that are not finite", file=path, field="data", fix=fix)
    return resampled(sound, theirs, rate)


def _refuse_cut_off(path: Path) -> None:
    """Of a RIFF file whose chunks are in order; the library takes what there is for all.

    Raises:
      ValueError: the file ends before its data does.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        order = ">" if file.read(12).startswith(b"RIFX") else "<"
        while len(head := file.read(8)) == 8:
            name, length = struct.unpack(f"{order}4sI", head)
            # A program that wrote into a pipe could not come back to say how much it was.
            if name == b"data" and length != _UNKNOWN and file.tell() + length > size:
                raise ValueError(f"{length} bytes of sound are announced and fewer there")
            file.seek(length + length % 2, os.SEEK_CUR)


def resampled(sound: np.ndarray, old: int, new: int) -> np.ndarray:
    """f32[ceil(S new / old)], by a polyphase filter without aliases."""
    if old == new:
        return sound.astype(np.float32)
    common = math.gcd(old, new)
    return resample_poly(sound, new // common, old // common).astype(np.float32)


def _unit(sound: np.ndarray) -> np.ndarray:
    """Integers of any width, and floating point, on one scale."""
    if sound.dtype == np.uint8:
        return (sound.astype(np.float32) - 128) / 128
    if np.issubdtype(sound.dtype, np.integer):
        return sound.astype(np.float64) / -float(np.iinfo(sound.dtype).min)
    return sound
