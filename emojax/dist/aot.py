"""Slices of TPU that this machine does not have: what they are, and what a program costs on one.

A program is compiled for the devices of a named slice by libtpu, which needs no TPU for that. It
must be traced under `jax.sharding.use_abstract_mesh(mesh.abstract_mesh)`, so that operators choose
what is best there, and never under `jax.set_mesh`, which would put constants on devices that do not
exist.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

from emojax.dist.collectives import Collective, collectives
from emojax.errors import ConfigError

GIB = 1 << 30

LESS = (
    "Fewer rows on each device (data.batch_utterances, data.batch_conversations), train.accumulate, "
    "train.remat = layers or a larger mesh.fsdp need less"
)
"""What to do where a step does not fit."""


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


class DoesNotFit(ConfigError):
    """The config needs more memory than a chip of the slice has."""


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


@dataclasses.dataclass(frozen=True)
class Program:
    """What one device does in a run of a compiled program.

    Attributes:
      memory: bytes of arguments, of results that take no argument's place, of temporaries and of
        the program itself.
      flops: as XLA counts them, the body of a loop once; without kernels, into which it cannot look.
      kernel_flops: of the products in Pallas kernels, as these declare them.
      bytes: read and written in memory, as XLA counts them; likewise.
      kernels: how often each Pallas kernel runs.
      loops: number of loops in the program.
      collectives: what devices say to one another.
      seconds: that compiling took.
    """

    memory: dict[str, int]
    flops: float
    kernel_flops: float
    bytes: float
    kernels: dict[str, int]
    loops: int
    collectives: list[Collective]
    seconds: float

    @property
    def total_memory(self) -> int:
        return sum(self.memory.values())


def compiled(traced: jax.stages.Traced, mesh: Mesh) -> Program:
    """Compile what was traced for the mesh's devices, and look at it.

    Raises:
      DoesNotFit: XLA found no way to run it in the devices' memory.
    """
    started = time.monotonic()
    try:
        with _not_kept():
            program = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        found = re.search(r"Ran out of memory.*", str(error))
        if found is None:
            raise
        raise DoesNotFit(f"XLA finds no room for the compiled step: {found[0]} {LESS}") from error
    seconds = time.monotonic() - started
    memory, cost, text = program.memory_analysis(), program.cost_analysis(), program.as_text()
    found_kernels = list(_kernels(traced.jaxpr.jaxpr))
    count: collections.Counter[str] = collections.Counter()
    for name, times, _ in found_kernels:
        count[name] += times
    return Program(
        memory={
            "arguments": memory.argument_size_in_bytes,
            "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "program": memory.generated_code_size_in_bytes,
        },
        flops=cost["flops"],
        kernel_flops=sum(times * flops for _, times, flops in found_kernels),
        bytes=cost["bytes accessed"],
        kernels=dict(sorted(count.items())),
        loops=len(re.findall(r" while\(", text)),
        collectives=collectives(text, mesh),
        seconds=seconds,
    )


@contextlib.contextmanager
def _not_kept() -> Iterator[None]:
    """Compile, but not into JAX's cache: nothing for absent devices can be read back from it."""
    option = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, option)
    jax.config.update(option, math.inf)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _kernels(jaxpr: Any, times: int = 1) -> Iterator[tuple[str, int, int]]:
    """(name, how often it runs, FLOPs of one run) of each Pallas kernel.

    Inside of `jax.shard_map`, where kernels are, sizes are those of one device.
    """
    for equation in jaxpr.eqns:
        if equation.primitive.name == "pallas_call":
            cost = equation.params["cost_estimate"]
            name = equation.params["name"] or "kernel"
            yield name, times, cost.flops if cost else 0
            continue
        repeats = times * equation.params.get("length", 1) if "jaxpr" in equation.params else times
        for inner in jaxprs_in_params(equation.params):
            yield from _kernels(inner, repeats)
