"""Pitch, energy and how they move.

F0 by YIN (A. de Cheveigné and H. Kawahara, JASA 111(4), 2002), steps 1 to 5 as librosa takes them:
the difference function of a window whose second half shrinks with the lag, its cumulative mean
normalisation (equation 8), the first trough below a threshold or else the lowest point, parabolic
interpolation.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.audio.frames import frame_count, frames, within
from emojax.ops.audio.spectrum import decibel


@dataclasses.dataclass(frozen=True)
class ProsodyConfig:
    """How prosody is measured.

    Attributes:
      rate: samples per second.
      size: samples of a frame; at least two of the longest periods.
      hop: samples from frame to frame.
      low, high: Hz between which F0 is sought.
      trough: aperiodicity below which the first trough is taken for the period.
      voiced: aperiodicity below which a frame counts as voiced.
      delta: frames over which changes are measured, odd.
      floor: mean power below which nothing is told apart.
    """

    rate: int = 16_000
    size: int = 1024
    hop: int = 160
    low: float = 60.0
    high: float = 600.0
    trough: float = 0.1
    voiced: float = 0.25
    delta: int = 9
    floor: float = 1e-10


PROSODY = ("pitch", "voiced", "periodicity", "energy", "pitch_delta", "energy_delta")
"""What `prosody` measures, in order."""


def yin(
    x: Float[Array, "N S"],
    length: Int[Array, " N"],
    *,
    rate: int,
    size: int,
    hop: int,
    low: float,
    high: float,
    trough: float = 0.1,
) -> tuple[Float[Array, "N T"], Float[Array, "N T"]]:
    """F0 in Hz of every frame, voiced or not, and its aperiodicity.

    Aperiodicity is the normalised difference at the chosen lag: 0 for a perfect period, about 1
    for noise. Silence has 0 too, as nothing differs there.
    """
    shortest = math.floor(rate / high)
    longest = min(math.ceil(rate / low), size - 1)
    found = normalised_difference(frames(x, length, size, hop), longest)[..., shortest - 1 :]
    before = jnp.pad(found, ((0, 0), (0, 0), (1, 0)), mode="edge")[..., :-1]
    after = jnp.pad(found, ((0, 0), (0, 0), (0, 1)), mode="edge")[..., 1:]
    # A trough at the shortest lag has a neighbour on one side alone.
    first = jnp.arange(found.shape[-1]) == 0
    is_trough = ((found < before) | first) & jnp.where(first, found < after, found <= after)
    deep = is_trough & (found < trough)
    chosen = jnp.where(deep.any(-1), jnp.argmax(deep, -1), jnp.argmin(found, -1))

    def at(y: Array) -> Array:
        return jnp.take_along_axis(y, chosen[..., None], -1)[..., 0]

    period = (
        shortest + chosen + _parabola(at(before), at(found), at(after), chosen, found.shape[-1])
    )
    return rate / period, at(found)


def normalised_difference(x: Float[Array, "N T size"], longest: int) -> Float[Array, "N T longest"]:
    """YIN's difference function over its own mean at shorter lags, for lags 1 to `longest`."""
    size = x.shape[-1]
    # Room for the longest lag is enough: what wraps around falls on lags nobody asks for.
    room = _even(size + longest)
    spectrum = jnp.fft.rfft(x, room)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    similar = jnp.fft.irfft(power, room)[..., : longest + 1]
    energy = jnp.cumsum(jnp.square(x[..., :longest]), -1)
    difference = 2 * (similar[..., :1] - similar[..., 1:]) - energy
    lag = np.arange(1, longest + 1, dtype=np.float32)
    mean = jnp.cumsum(difference, -1) / lag
    return difference / (mean + jnp.finfo(x.dtype).tiny)


def _even(least: int) -> int:
    """The next size that transforms fast: 2^a, 3 2^a or 5 2^a."""
    return min(odd << max(1, math.ceil(math.log2(least / odd))) for odd in (1, 3, 5))


def _parabola(before: Array, here: Array, after: Array, index: Array, count: int) -> Array:
    """Where between its neighbours a trough is lowest; 0 at the ends and where that is farther."""
    curve, slope = after + before - 2 * here, (after - before) / 2
    inside = (index > 0) & (index < count - 1) & (jnp.abs(slope) < jnp.abs(curve))
    return jnp.where(inside, -slope / jnp.where(inside, curve, 1), 0)


def energy(
    x: Float[Array, "N S"], length: Int[Array, " N"], *, size: int, hop: int
) -> Float[Array, "N T"]:
    """Root mean square of every frame."""
    return jnp.sqrt(jnp.square(frames(x, length, size, hop)).mean(-1))


def delta(
    x: Float[Array, "N T D"], length: Int[Array, " N"], width: int, order: int = 1
) -> Float[Array, "N T D"]:
    """Derivative per frame of the polynomial of degree `order` fitted to `width` frames.

    (A. Savitzky and M. Golay, Analytical Chemistry 36(8), 1964.) Frames beyond either end are
    taken to be as the last one before it.
    """
    half = width // 2
    places = np.arange(-half, half + 1)
    fit = np.linalg.pinv(np.vander(places, order + 1, increasing=True).astype(np.float64))
    taps = (math.factorial(order) * fit[order]).astype(np.float32)
    last = jnp.take_along_axis(x, jnp.maximum(length - 1, 0)[:, None, None], 1)
    x = jnp.where(within(length, x.shape[1])[..., None], x, last)
    x = jnp.pad(x, ((0, 0), (half, half), (0, 0)), mode="edge")
    count = x.shape[1] - 2 * half
    total = jnp.zeros_like(x[:, :count])
    for tap in range(width):
        total += taps[tap] * x[:, tap : tap + count]
    return total


def fill_unvoiced(x: Float[Array, "N T"], voiced: Bool[Array, "N T"]) -> Float[Array, "N T"]:
    """Straight lines over unvoiced frames from the voiced one before to the one after.

    Before the first and after the last voiced frame its value stays; 0 in a row without any.
    """
    count = x.shape[1]
    place = jnp.broadcast_to(jnp.arange(count), x.shape)
    before = jax.lax.cummax(jnp.where(voiced, place, -1), axis=1)
    after = jax.lax.cummin(jnp.where(voiced, place, count), axis=1, reverse=True)
    left, right = jnp.where(before < 0, after, before), jnp.where(after == count, before, after)
    share = (place - left) / jnp.maximum(right - left, 1)

    def at(index: Array) -> Array:
        return jnp.take_along_axis(x, jnp.clip(index, 0, count - 1), 1)

    filled = at(left) + share * (at(right) - at(left))
    return jnp.where(voiced.any(1, keepdims=True), filled, 0)


def prosody(
    x: Float[Array, "N S"], length: Int[Array, " N"], config: ProsodyConfig
) -> Float[Array, "N T 6"]:
    """What `PROSODY` names, of every frame; 0 beyond the end.

    Pitch in octaves above 100 Hz, with straight lines where there is no voice; voiced as 0 or 1;
    periodicity from 0 to 1; energy in dB; changes of pitch and energy per frame.
    """
    c = config
    f0, aperiodicity = yin(
        x, length, rate=c.rate, size=c.size, hop=c.hop, low=c.low, high=c.high, trough=c.trough
    )
    count = frame_count(length, c.hop)
    real = within(count, f0.shape[1])
    power = jnp.square(energy(x, length, size=c.size, hop=c.hop))
    voiced = real & (aperiodicity < c.voiced) & (power > c.floor)
    pitch = fill_unvoiced(jnp.log2(f0 / 100), voiced)
    periodicity = jnp.where(power > c.floor, 1 - jnp.clip(aperiodicity, 0, 1), 0)
    level = decibel(power, c.floor)
    moving = delta(jnp.stack([pitch, level], -1), count, c.delta)
    each = jnp.stack([pitch, voiced.astype(x.dtype), periodicity, level], -1)
    return jnp.where(real[..., None], jnp.concatenate([each, moving], -1), 0)
