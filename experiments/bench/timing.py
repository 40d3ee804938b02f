"""Times of compiled programs, taken in turn, and what the device at hand could do at best."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

PEAKS = {
    # Dense bf16 FLOP/s and bytes/s of memory, from the makers' data sheets.
    "NVIDIA H200": (989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": (989e12, 3.35e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 2.04e12),
    "TPU v4": (275e12, 1.2e12),
    "TPU v5 lite": (197e12, 819e9),
    "TPU v5": (459e12, 2.77e12),
    "TPU v6 lite": (918e12, 1.64e12),
}
"""By `device_kind`; for other devices, and for fp32, the rates are measured."""


@dataclasses.dataclass(frozen=True)
class Limit:
    """What the device can do at best, and how that is known."""

    flops_per_second: float
    bytes_per_second: float
    source: str

    def seconds(self, flops: float, bytes_: float) -> float:
        """No program needs less: one of the two limits binds."""
        return max(flops / self.flops_per_second, bytes_ / self.bytes_per_second)


def limit(dtype: Any) -> Limit:
    """Of this process's first device."""
    kind = jax.devices()[0].device_kind
    if kind in PEAKS and jnp.dtype(dtype) == jnp.bfloat16:
        return Limit(*PEAKS[kind], source=f"data sheet of {kind}")
    size = 2048 if jax.default_backend() == "cpu" else 8192
    square = jnp.ones((size, size), dtype)
    wide = jnp.ones(1 << 26 if jax.default_backend() == "cpu" else 1 << 29, jnp.float32)
    product = jax.jit(lambda x: x @ x).lower(square).compile()
    copy = jax.jit(lambda x: x + 1).lower(wide).compile()
    seconds = in_turn({"product": lambda: product(square), "copy": lambda: copy(wide)}, rounds=5)
    return Limit(
        2 * size**3 / min(seconds["product"]),
        2 * wide.nbytes / min(seconds["copy"]),
        f"fastest of 5: products of {size} x {size}, a copy of {wide.nbytes >> 20} MiB, on {kind}",
    )


def in_turn(programs: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round, after one that does not count.

    One after another in every round, so that a machine that slows down slows all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for counts in range(-1, rounds):
        for name, program in programs.items():
            started = time.perf_counter()
            jax.block_until_ready(program())
            if counts >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(each) for name, each in seconds.items()}
