"""TPU chips, and slices of them that this machine does not have."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from emojax.errors import ConfigError

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU.

    Attributes:
      name: as topologies call it.
      kind: as JAX calls its devices.
      devices: how many JAX sees of one chip.
      hbm: bytes of memory.
      flops: peak in bf16, FLOP/s.
      hbm_bandwidth: bytes/s.
      ici_bandwidth: between chips, bytes/s, all ports and both ways together.
      ports: links to neighbouring chips.
      sides: how many a slice has, 2 for a plane, 3 for a block.
      largest: chips of the largest slice.
      source: where the figures come from.
    """

    name: str
    kind: str
    devices: int
    hbm: int
    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    ports: int
    sides: int
    largest: int
    source: str

    @property
    def ring_bandwidth(self) -> float:
        """Bytes/s that a chip sends in a ring of chips: one port each way, of the many it has."""
        return self.ici_bandwidth / self.ports


_DOCS = "https://docs.cloud.google.com/tpu/docs"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "TPU v4", 1, 32 * GIB, 275e12, 1200e9, 600e9, 6, 3, 4096,
             f"{_DOCS}/v4; six links of 50 GB/s each way: arXiv:2304.01433"),
        Chip("v5e", "TPU v5 lite", 1, 16 * GIB, 197e12, 819e9, 400e9, 4, 2, 256, f"{_DOCS}/v5e"),
        Chip("v5p", "TPU v5", 1, 95 * GIB, 459e12, 2765e9, 1200e9, 6, 3, 6144, f"{_DOCS}/v5p"),
        Chip("v6e", "TPU v6 lite", 1, 32 * GIB, 918e12, 1638e9, 800e9, 4, 2, 256,
             f"{_DOCS}/tpu7x, beside its predecessors"),
        Chip("v7x", "TPU7x", 2, 192 * GIB, 2307e12, 7380e9, 1200e9, 6, 3, 9216, f"{_DOCS}/tpu7x"),
    )
}  # fmt: skip
"""Per chip, as its maker gives them."""


@dataclasses.dataclass(frozen=True)
class Slice:
    """Chips of one kind, side by side.

    Attributes:
      sides: chips along each.
    """

    chip: Chip
    sides: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.sides))}"

    @property
    def chips(self) -> int:
        return math.prod(self.sides)

    @property
    def device_count(self) -> int:
        return self.chips * self.chip.devices

    @property
    def device_memory(self) -> int:
        """Bytes of HBM of a device."""
        return self.chip.hbm // self.chip.devices

    def devices(self) -> list[Any]:
        """Its devices, good for compiling and nothing else.

        Raises:
          ConfigError: there is no libtpu, or it knows no such slice.
        """
        _find_libtpu()
        # No chip is asked who it is, none is locked, and nothing is said about their absence.
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        options: dict[str, Any] = {}
        if self.chip.name == "v4":
            options["chip_config_name"] = "megacore"  # both cores are one device, as in the cloud
        if self.chips == 1:
            options["chips_per_host_bounds"] = (1, 1, 1)
        known = self.name.replace("v7x", "tpu7x")
        try:
            return list(topologies.get_topology_desc(known, "tpu", **options).devices)
        except jax.errors.JaxRuntimeError as error:
            raise ConfigError(
                f"libtpu knows no slice {self.name}: {error}. Sides are as Google offers them: 1x1, "
                "2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; in three dimensions 2x2x1, 2x2x2, 4x4x4, ..."
            ) from error


def parse_slice(name: str) -> Slice:
    """The slice of a name such as "v5e:16x16" or "v5p:4x4x4".

    Raises:
      ConfigError: it is none.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name)
    chip = CHIPS.get(match[1].replace("tpu7x", "v7x")) if match else None
    sides = tuple(int(side) for side in match[2].split("x")) if match else ()
    if chip is None:
        raise ConfigError(
            f"there is no TPU slice {name!r}. Name a chip ({', '.join(CHIPS)}) and the sides of the "
            "slice, for example v5e:16x16 or v5p:4x4x4"
        )
    if len(sides) != chip.sides or not 0 < math.prod(sides) <= chip.largest:
        example = "16x16" if chip.sides == 2 else "4x4x4"
        raise ConfigError(
            f"a slice of {chip.name} has {chip.sides} sides and at most {chip.largest} chips, for "
            f"example {chip.name}:{example}, not {name!r}"
        )
    return Slice(chip, sides)


def _find_libtpu() -> None:
    """Raises `ConfigError` where JAX would not find the compiler for TPUs."""
    given = os.environ.get("TPU_LIBRARY_PATH")
    if given is not None and not Path(given).is_file():
        raise ConfigError(f"TPU_LIBRARY_PATH is {given}, and there is no such file")
    if given is None and importlib.util.find_spec("libtpu") is None:
        wanted = libtpu_wanted()
        raise ConfigError(
            "compiling for a TPU needs libtpu, which needs no TPU itself. Install it, "
            f"`pip install '{wanted}'` (this JAX wants that version), or unpack it elsewhere, "
            f"`pip install --no-deps --target DIR '{wanted}'`, and set "
            "TPU_LIBRARY_PATH=DIR/libtpu/libtpu.so"
        )


def libtpu_wanted() -> str:
    """The libtpu that the installed JAX asks for, as pip takes it."""
    for line in importlib.metadata.requires("jax") or ():
        if line.startswith("libtpu"):
            return line.partition(";")[0].strip()
    return "libtpu"
