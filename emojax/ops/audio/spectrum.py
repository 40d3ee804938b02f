"""Short-time Fourier transform and log-mel spectrum, to librosa's definitions.

Slaney's mel scale and area normalisation (M. Slaney, Auditory Toolbox, TR 1998-010): linear below
1 kHz, logarithmic above.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Complex, Float, Int

from emojax.ops.audio.frames import Window, frame_count, frames, window, within

_LINEAR_HZ, _BREAK_HZ, _LOG_STEP = 200.0 / 3, 1000.0, np.log(6.4) / 27
"""Hz of a mel below the break, where the break is, and the logarithm of a mel's factor above."""


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """How a log-mel spectrum is made.

    Attributes:
      rate: samples per second.
      size: samples of a transform.
      window: samples of its window, centred in it.
      hop: samples from frame to frame.
      bands: F.
      low, high: Hz of the lowest band's lower and the highest band's upper end.
      floor: power below which nothing is told apart.
      kind: of the window.
    """

    rate: int = 16_000
    size: int = 512
    window: int = 400
    hop: int = 160
    bands: int = 64
    low: float = 50.0
    high: float = 8000.0
    floor: float = 1e-10
    kind: Window = "hann"


def stft(
    x: Float[Array, "N S"],
    length: Int[Array, " N"],
    *,
    size: int,
    hop: int,
    window_size: int | None = None,
    kind: Window = "hann",
) -> Complex[Array, "N T K"]:
    """Transform of each frame under a window; K = size // 2 + 1. Frames beyond the end are 0."""
    taper = window(kind, window_size or size)
    left = (size - len(taper)) // 2
    taper = np.pad(taper, (left, size - len(taper) - left))
    found = jnp.fft.rfft(frames(x, length, size, hop) * taper)
    return jnp.where(within(frame_count(length, hop), found.shape[1])[..., None], found, 0)


def mel_scale(hertz: np.ndarray) -> np.ndarray:
    """Mels of frequencies."""
    hertz = np.asarray(hertz, np.float64)
    above = np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.minimum(hertz, _BREAK_HZ) / _LINEAR_HZ + above


def mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    """Inverse of `mel_scale`."""
    mel = np.asarray(mel, np.float64)
    at_break = _BREAK_HZ / _LINEAR_HZ
    return (
        np.minimum(mel, at_break) * _LINEAR_HZ * np.exp(_LOG_STEP * np.maximum(mel - at_break, 0))
    )


def mel_filters(config: MelConfig, warp: float = 1.0) -> np.ndarray:
    """f32[K, F], a triangle a band, equal in area.

    Args:
      warp: factor on the frequencies that the bands listen to; other than 1, the spectrum is that
        of a vocal tract shorter or longer by it (vocal-tract-length perturbation, N. Jaitly and
        G. Hinton, ICML 2013 workshop on deep learning for audio; here linear up to `high`).
    """
    bins = np.fft.rfftfreq(config.size, 1 / config.rate)
    low, high = mel_scale(np.array([config.low, config.high])).tolist()
    edges = mel_to_hertz(np.linspace(low, high, config.bands + 2)) * warp
    step = np.diff(edges)
    rising = (bins[:, None] - edges[:-2]) / step[:-1]
    falling = (edges[2:] - bins[:, None]) / step[1:]
    area = 2 / (edges[2:] - edges[:-2])
    return (np.maximum(0, np.minimum(rising, falling)) * area).astype(np.float32)


def decibel(power: Float[Array, "*axes"], floor: float) -> Float[Array, "*axes"]:
    """10 log10 of power, no lower than that of `floor`."""
    return 10 / np.log(10) * jnp.log(jnp.maximum(power, floor))


def power_spectrum(
    x: Float[Array, "N S"], length: Int[Array, " N"], config: MelConfig
) -> Float[Array, "N T K"]:
    """|STFT|^2."""
    found = stft(
        x, length, size=config.size, hop=config.hop, window_size=config.window, kind=config.kind
    )
    return jnp.square(found.real) + jnp.square(found.imag)


def log_mel(
    x: Float[Array, "N S"], length: Int[Array, " N"], config: MelConfig
) -> Float[Array, "N T F"]:
    """Power in mel bands, in dB; frames beyond the end hold the floor."""
    # Not in the shortened floating point that accelerators multiply in by themselves.
    mel = jnp.matmul(
        power_spectrum(x, length, config), jnp.asarray(mel_filters(config)), precision="highest"
    )
    return decibel(mel, config.floor)
