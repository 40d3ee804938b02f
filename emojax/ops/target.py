"""Which device a program is being traced for, so that operators can choose how to compute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

ANY = "any"
"""Platform of a program that is to leave JAX, see `for_any_device`."""

_ANY: ContextVar[bool] = ContextVar("any", default=False)


def target() -> tuple[str, str]:
    """(platform, device kind): "cpu", "gpu" or "tpu" and the maker's name of the chip.

    They are those of the mesh around the caller, which may be of devices this process does not have
    (ahead-of-time compilation), or else of this process's own first device. Within
    `for_any_device` both are `ANY`.
    """
    if _ANY.get():
        return ANY, ANY
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None and device.platform is not None:
        platform = "gpu" if device.platform in ("cuda", "rocm") else device.platform
        return platform, device.device_kind
    return jax.default_backend(), jax.devices()[0].device_kind


@contextlib.contextmanager
def for_any_device() -> Iterator[None]:
    """What is traced inside is for other runtimes: rows side by side, with no more than common
    operations and no need to know B and L.

    The results are the same; what is lost is speed and memory, in the backward pass above all.
    """
    token = _ANY.set(True)
    try:
        yield
    finally:
        _ANY.reset(token)
