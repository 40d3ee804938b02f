"""Which device a program is being traced for, so that operators can choose how to compute."""

from __future__ import annotations

import jax


def target() -> tuple[str, str]:
    """(platform, device kind): "cpu", "gpu" or "tpu" and the maker's name of the chip.

    They are those of the mesh around the caller, which may be of devices this process does not have
    (ahead-of-time compilation), or else of this process's own first device.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is not None and device.platform is not None:
        platform = "gpu" if device.platform in ("cuda", "rocm") else device.platform
        return platform, device.device_kind
    return jax.default_backend(), jax.devices()[0].device_kind
