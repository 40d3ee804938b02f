"""How far a face is behind its voice, for each conversation, and frames moved back into step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from emojax.errors import DataError
from emojax.ops.lags import lagged_correlation, lagged_soft_dtw

Method = Literal["correlation", "soft_dtw"]
METHODS: tuple[Method, ...] = ("correlation", "soft_dtw")
STEP = 256
"""Conversations are padded to multiples of so many frames: few shapes are compiled."""
TOGETHER = 4096
"""Rows times lags that soft-DTW takes at once."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two series of one conversation on one clock: f32[F] each, and where they are there.

    Frames before either begins or that are lost are missing; what stands in them does not matter.
    """

    voice: np.ndarray
    face: np.ndarray
    voice_present: np.ndarray
    face_present: np.ndarray

    @classmethod
    def of(
        cls, voice: np.ndarray, face: np.ndarray, voice_present: np.ndarray | None = None,
        face_present: np.ndarray | None = None,
    ) -> Pair:  # fmt: skip
        """What is not said to be missing is there if it is finite."""
        arrays = [np.asarray(each, np.float32) for each in (voice, face)]
        masks = [
            np.isfinite(x) & (True if there is None else there)
            for x, there in zip(arrays, (voice_present, face_present), strict=True)
        ]
        return cls(*arrays, *masks)


@dataclasses.dataclass(frozen=True)
class Lag:
    """Attributes:
    seconds: the face is behind the voice by so much; negative is ahead.
    frames: the same in frames, not rounded.
    score: correlation at the lag, or for soft-DTW by how much the distance there is below the
      median over lags, in its deviations. 0 where nothing could be compared: the lag is then 0.
    """

    seconds: float
    frames: float
    score: float


def estimate_lags(
    pairs: Sequence[Pair], fps: float, *, longest: float = 2.5, method: Method = "correlation",
    least: float = 2.0, names: Sequence[str] | None = None,
) -> list[Lag]:  # fmt: skip
    """The lag of each conversation at which voice and face agree best.

    Args:
      fps: frames per second of the series.
      longest: seconds, the largest lag either way that is looked for.
      method: normalised cross-correlation, or soft-DTW in a narrow band at each lag.
      least: seconds that must be there of both, side by side, for a lag to count.
      names: of the conversations, for errors.

    Raises:
      DataError: a conversation whose series differ in length.
    """
    found: list[Lag | None] = [None] * len(pairs)
    reach = max(1, round(longest * fps))
    buckets: dict[int, list[int]] = {}
    for k, pair in enumerate(pairs):
        lengths = {len(getattr(pair, field.name)) for field in dataclasses.fields(pair)}
        if len(lengths) > 1:
            raise DataError(
                f"series of {' and '.join(map(str, sorted(lengths)))} frames",
                conversation=names[k] if names else str(k), field="visual",
                fix="Bring voice and face to the frames of one clock first",
            )  # fmt: skip
        padded = -(-max(len(pair.voice), reach + 1) // STEP) * STEP
        buckets.setdefault(padded, []).append(k)
    most = max(1, TOGETHER // (2 * reach + 1))
    for padded, members in sorted(buckets.items()):
        rows = min(most, 1 << (len(members) - 1).bit_length())
        for first in range(0, len(members), rows):
            some = members[first : first + rows]
            curve = _curves([pairs[k] for k in some], padded, rows, reach, method, least * fps)
            for k, each in zip(some, curve, strict=True):
                found[k] = _peak(each, reach, fps, method)
    return [each for each in found if each is not None]


def shifted(
    frames: np.ndarray, present: np.ndarray, lag: float, fps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Frames [F, ...] of a stream that is `lag` seconds late, each at the time it belongs to.

    To the nearest frame. What would come from outside of the stream is missing, and zero.
    """
    source = np.arange(len(frames)) + round(lag * fps)
    inside = (source >= 0) & (source < len(frames))
    source = np.clip(source, 0, max(len(frames) - 1, 0))
    there = inside & present[source]
    moved = frames[source]
    moved[~there] = 0
    return moved, there


def _curves(
    pairs: Sequence[Pair], padded: int, rows: int, reach: int, method: Method, least: float
) -> np.ndarray:
    """f[n, K] agreement at each lag, larger is better; -inf where too little can be compared."""
    stacked = {
        field.name: np.zeros((rows, padded), np.float32) for field in dataclasses.fields(Pair)
    }
    for k, pair in enumerate(pairs):
        for name, array in stacked.items():
            array[k, : len(pair.voice)] = np.nan_to_num(getattr(pair, name))
    given = [jnp.asarray(stacked[name]) for name in ("voice", "face")]
    masks = [jnp.asarray(stacked[f"{name}_present"] > 0) for name in ("voice", "face")]
    correlation, count = _correlate(*given, *masks, (-reach, reach))
    curve = correlation
    if method == "soft_dtw":
        curve = -lagged_soft_dtw(*given, *masks, (-reach, reach))
    # Where a series does not vary, correlation is exactly 0 and there is nothing to compare.
    known = (count >= least) & (correlation != 0)
    return np.asarray(jnp.where(known, curve, -jnp.inf))[: len(pairs)]


_correlate: Any = functools.partial(jax.jit, static_argnums=4)(lagged_correlation)


def _peak(curve: np.ndarray, reach: int, fps: float, method: Method) -> Lag:
    """The best lag, between frames by the parabola through it and its neighbours."""
    known = np.isfinite(curve)
    if not known.any():
        return Lag(0.0, 0.0, 0.0)
    best = int(np.argmax(curve))
    lag, score = float(best - reach), float(curve[best])
    if method == "soft_dtw":
        score = (score - float(np.median(curve[known]))) / max(float(curve[known].std()), 1e-9)
    if 0 < best < len(curve) - 1 and known[[best - 1, best + 1]].all():
        before, here, after = map(float, curve[best - 1 : best + 2])
        bend = before - 2 * here + after
        lag += float(0.5 * (before - after) / bend) if bend < 0 else 0.0
    return Lag(lag / fps, lag, score)
