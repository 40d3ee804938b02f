"""What a program costs on devices that this machine does not have.

It is compiled by libtpu, which needs no TPU for that. It must be traced under
`jax.sharding.use_abstract_mesh(mesh.abstract_mesh)`, so that operators choose what is best there, and
never under `jax.set_mesh`, which would put constants on devices that do not exist.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh

from emojax.dist.collectives import Collective, collectives
from emojax.errors import ConfigError

LESS = (
    "Fewer rows on each device (data.batch_utterances, data.batch_conversations), train.accumulate, "
    "train.remat = layers or a larger mesh.fsdp need less"
)
"""What to do where a step does not fit."""


class DoesNotFit(ConfigError):
    """The config needs more memory than a chip of the slice has."""


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


def readable(count: float) -> str:
    """Bytes, as people read them."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if count >= 1 << power:
            return f"{count / (1 << power):,.2f} {unit}"
    return f"{count / 1024:,.1f} KiB"
