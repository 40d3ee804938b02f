"""What devices say to one another in a compiled program, read from its text.

XLA writes groups of devices in four ways; here they are all lists of numbers, and then names of
axes of the mesh. For a TPU it writes some collectives in a way of its own: one that goes on beside
other work stands in the text once for each piece of that work, and a reduce-scatter may be an
all-reduce of which each device keeps a slice, in a computation named after both.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.sharding import Mesh

KINDS = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute",
    "collective-broadcast", "ragged-all-to-all",
)  # fmt: skip
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8}
_INSTRUCTION = re.compile(
    rf"^\s*(?:ROOT )?%?\S+ = (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\("
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(
    r"(?P<how>body|condition|to_apply|calls|called_computations|branch_computations|"
    r"true_computation|false_computation)=(?:\{(?P<many>[^}]*)\}|%?(?P<one>[\w.\-]+))"
)
_CHAIN = re.compile(r'frontend_attributes=\{[^}]*chain_id="(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
      kind: one of `KINDS`.
      axes: axes of the mesh over which devices talk, or () if they form no such pattern.
      group: devices of a group; of a permutation 2.
      bytes: of a device's operand.
      times: how often a run of the program executes it, None if a loop's length is not known.
      name: where it comes from, as the program says.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    bytes: int
    times: int | None
    name: str


def collectives(text: str, mesh: Mesh) -> list[Collective]:
    """Every collective of more than one device in `compiled.as_text()`, in the order of the text."""
    times = _executions(text)
    found = []
    chains = set()
    for computation, line in _lines(text):
        match = _INSTRUCTION.match(line)
        if match is None:
            continue
        if chain := _CHAIN.search(line):
            if chain[1] in chains:
                continue
            chains.add(chain[1])
        kind = match["kind"]
        if kind == "collective-permute":
            pairs = _braced(_attribute(line, "source_target_pairs"))
            axes, group = _axes_of_pairs(pairs, mesh), 2
        else:
            groups = _groups(line, mesh.size)
            axes, group = _axes_of_groups(groups, mesh), len(groups[0])
            if group == 1:
                continue
        name = re.search(r'op_name="([^"]*)"', line)
        size = _operand_bytes(match["type"], kind, bool(match["start"]), group)
        if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        found.append(
            Collective(kind, axes, group, size, times[computation], name[1] if name else "")
        )
    return found


def summary(found: list[Collective]) -> dict[str, dict[str, Any]]:
    """By kind and axes, "all-reduce data,fsdp": how often, and bytes of operands, in a run."""
    table: dict[str, dict[str, Any]] = {}
    for each in sorted(found, key=lambda c: (c.kind, c.axes)):
        row = table.setdefault(
            f"{each.kind} {','.join(each.axes) or 'others'}", {"count": 0, "bytes": 0}
        )
        row["count"] += each.times or 1
        row["bytes"] += (each.times or 1) * each.bytes
    return table


def _lines(text: str) -> Iterator[tuple[str, str]]:
    computation = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header["name"]
        else:
            yield computation, line


def _executions(text: str) -> dict[str, int | None]:
    """How often each computation runs; both branches of a condition count."""
    callers: dict[str, list[tuple[str, int | None]]] = collections.defaultdict(list)
    for computation, line in _lines(text):
        for call in _CALLED.finditer(line):
            trips: int | None = 1
            if call["how"] in ("body", "condition"):
                told = _TRIPS.search(line)
                trips = int(told[1]) if told else None
            for name in re.findall(r"[\w.\-]+", call["many"] or call["one"] or ""):
                callers[name].append((computation, trips))

    @functools.cache
    def count(name: str) -> int | None:
        total = 0 if callers[name] else 1  # the entry has no caller
        for caller, trips in callers[name]:
            times = count(caller)
            if times is None or trips is None:
                return None
            total += times * trips
        return total

    return {name: count(name) for name in {computation for computation, _ in _lines(text)}}


def _operand_bytes(text: str, kind: str, start: bool, group: int) -> int:
    sizes = [_bytes(dtype, dims) for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", text)]
    if start and kind == "all-gather":
        return sum(sizes[: len(sizes) // 2])  # operands, then results
    if start and kind == "collective-permute":
        return sizes[0]
    if kind == "all-gather":
        return sum(sizes) // group
    if kind == "reduce-scatter":
        return sum(sizes) * group
    return sum(sizes)


def _bytes(dtype: str, dims: str) -> int:
    width = re.search(r"\d+$", dtype)
    bits = _BITS.get(dtype) or (int(width[0]) if width else 0)
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


def _attribute(line: str, name: str) -> str:
    """The value of an attribute in braces."""
    start = line.index(f"{name}=") + len(name) + 1
    return line[start : line.index("}}", start) + 2] if "{{" in line[start:] else "{}"


def _braced(text: str) -> list[list[int]]:
    return [
        [int(n) for n in part.split(",") if n.strip()]
        for part in re.findall(r"\{([\d, ]*)\}", text)
    ]


def _iota(dims: str, source: str, order: str | None) -> np.ndarray:
    """[dims]<=[source]T(order): numbers in the shape `source`, transposed, then reshaped."""
    shape = [int(n) for n in source.split(",")]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    if order:
        numbers = numbers.transpose([int(n) for n in order.split(",")])
    return numbers.reshape([int(n) for n in dims.split(",")])


def _groups(line: str, devices: int) -> list[list[int]]:
    """Groups of devices that talk to one another."""
    text = line[line.index("replica_groups=") + len("replica_groups=") :]
    if text.startswith("{{"):
        return _braced(text[: text.index("}}") + 2])
    if text.startswith("{}"):
        return [list(range(devices))]
    if match := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(*match.groups()).tolist()
    match = re.match(
        r"mesh\[(?P<sizes>[^\]]*)\](?:, device_ids=\((?:\[(?P<source>[\d,]+)\]"
        r"(?:T\((?P<order>[\d,]+)\))?|(?P<listed>[\d,]+))\))? \{(?P<axes>[^}]*)\}", text,
    )  # fmt: skip
    if match is None:
        raise ValueError(f"these groups of devices are written in an unknown way: {text[:200]}")
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match["sizes"])}
    dims = ",".join(map(str, sizes.values()))
    if match["listed"]:
        numbers = np.array([int(n) for n in match["listed"].split(",")])
        numbers = numbers.reshape(list(sizes.values()))
    else:
        source = match["source"] or str(math.prod(sizes.values()))
        numbers = _iota(dims, source, match["order"])
    # An axis may be there in part: 'axis':(stride before)size.
    shape: list[int] = []
    within: list[int] = []
    chosen = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", match["axes"])
    }
    for name, size in sizes.items():
        before, part = chosen.get(name, (1, 1))
        if name in chosen:
            within.append(len(shape) + 1)
        shape += [before, part, size // before // part]
    apart = [i for i in range(len(shape)) if i not in within]
    numbers = numbers.reshape(shape).transpose(apart + within)
    return numbers.reshape(-1, math.prod(shape[i] for i in within)).tolist()


def _axes_of_groups(groups: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    numbers = np.arange(mesh.size).reshape(mesh.devices.shape)
    wanted = {frozenset(group) for group in groups}
    several = [axis for axis in mesh.axis_names if mesh.shape[axis] > 1]
    for count in range(1, len(several) + 1):
        for axes in itertools.combinations(several, count):
            along = [mesh.axis_names.index(axis) for axis in axes]
            size = math.prod(mesh.shape[axis] for axis in axes)
            rows = np.moveaxis(numbers, along, range(-count, 0)).reshape(-1, size)
            if {frozenset(row) for row in rows.tolist()} == wanted:
                return axes
    return ()


def _axes_of_pairs(pairs: list[list[int]], mesh: Mesh) -> tuple[str, ...]:
    shape = mesh.devices.shape
    moved = {
        axis
        for source, target in pairs
        for axis, a, b in zip(
            mesh.axis_names, np.unravel_index(source, shape), np.unravel_index(target, shape),
            strict=True,
        )
        if a != b
    }  # fmt: skip
    return tuple(axis for axis in mesh.axis_names if axis in moved)
