"""Dropout whose random bits cost next to nothing."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from emojax.config.swept import off

_WORDS = 2**32


class TracedRate(NamedTuple):
    """A rate of dropout that only the run of a program knows.

    Attributes:
      threshold: u32[]; what is dropped are words below it.
      kept: f32[], 1 - rate.
    """

    threshold: Array
    kept: Array


Rate = float | TracedRate


def words(rate: float) -> int:
    """Of 2^32 words how many are dropped; a rate in float32 would miss some."""
    return min(round(rate * _WORDS), _WORDS - 1)


def _mix(x: Array) -> Array:
    """A bijection of u32 in which every input bit flips every output bit with chance about 1/2.

    Shifts and multipliers are the published `lowbias32` of C. Wellons' hash-prospector.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def keep_mask(key: Array, rate: Rate, shape: tuple[int, ...]) -> Array:
    """bool[shape], each True with probability 1 - `rate`, reproducible from `key`.

    The bit of an element is a hash of its index and the key, so the mask is computed where it is
    used, forward and backward, and never stored or drawn in advance. The cryptographic generator
    of `jax.random` makes the key; behind it, on CPU, it would cost more than the layers it serves.
    """
    return keep_at(key, rate, jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape))


def keep_at(key: Array, rate: Rate, index: Array) -> Array:
    """The elements of `keep_mask` at u32 indices into its flattened array."""
    words = jax.random.key_data(key).ravel()
    bits = _mix(_mix(index ^ words[0]) + words[-1])
    return bits >= _threshold(rate)


def seeds(key: Array, *shape: int) -> Array:
    """u32[shape] from a key: one for each map that `keep_pair` is asked about."""
    return jax.random.bits(key, shape, jnp.uint32)


def keep_pair(seed: Array, query: Array, key: Array, rate: float) -> Array:
    """Which entries (query, key) of an attention map survive dropout; the arguments broadcast.

    A hash of the map's seed and of the two columns, so that every implementation, block and shard
    of a map drops the same entries and none stores them.
    """
    row = _mix(seed ^ _mix(query.astype(jnp.uint32) + jnp.uint32(1)))
    # Steps of 2^32 / golden ratio spread neighbouring keys over all bits.
    bits = _mix(row + key.astype(jnp.uint32) * jnp.uint32(0x9E3779B9))
    return bits >= _threshold(rate)


def _threshold(rate: Rate) -> Array:
    return rate.threshold if isinstance(rate, TracedRate) else jnp.uint32(words(rate))


def dropout(x: Array, rate: Rate, key: Array | None, place: Array | None = None) -> Array:
    """Inverted dropout; the identity without a key or a rate.

    Args:
      place: i32[N] of an x [N, D]: what is dropped of row n is what would be dropped of row
        `place[n]` of an array in which the rows lie otherwise.
    """
    if key is None or off(rate):
        return x
    share = rate.kept if isinstance(rate, TracedRate) else 1 - rate

    @jax.checkpoint  # The backward pass needs the mask alone, and hashes it again.
    def drop(x: Array, key: Array) -> Array:
        if place is None:
            kept = keep_mask(key, rate, x.shape)
        else:
            column = jnp.arange(x.shape[1], dtype=jnp.uint32)
            kept = keep_at(key, rate, place.astype(jnp.uint32)[:, None] * x.shape[1] + column)
        return jnp.where(kept, x / jnp.asarray(share, x.dtype), 0)

    return drop(x, key)
