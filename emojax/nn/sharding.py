"""Where arrays lie while a model computes: logical names of their axes, and a mesh of devices.

Layers name axes ("batch", "heads", ...); a table of rules, which `dist.rules` holds, says along
which axes of the mesh each is divided. Outside of `sharded`, or on a single device, everything here
does nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

Rules = Mapping[str, tuple[str, ...]]
"""Axes of the mesh along which an axis of an array is divided, by its logical name."""

Names = Sequence[str | None]

STORED = ("embed", "fused")
"""Axes divided only while a parameter is stored: whoever computes with it gathers them first."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """A mesh and the rules for it."""

    mesh: Mesh | AbstractMesh
    rules: Rules

    def spec(
        self, names: Names, shape: Sequence[int] | None, only: Collection[str] | None = None
    ) -> PartitionSpec:
        """How an array is divided. An axis that its devices do not divide evenly stays whole.

        Args:
          shape: None if all axes divide evenly.
          only: the axes of the mesh that count; None is all.

        Raises:
          KeyError: there is no rule for a name.
        """
        sizes = dict(self.mesh.shape)

        def axes(name: str | None, size: int) -> tuple[str, ...] | None:
            several = tuple(a for a in self.rules[name] if sizes[a] > 1) if name else ()
            even = size % math.prod(sizes[a] for a in several) == 0
            if only is not None:
                several = tuple(a for a in several if a in only)
            return several if several and even else None

        shape = (0,) * len(names) if shape is None else shape
        return PartitionSpec(*(axes(n, s) for n, s in zip(names, shape, strict=True)))

    def axes_of(self, *names: str | None) -> frozenset[str]:
        """Axes of the mesh, of more than one device, along which any of the names is divided."""
        several = (axis for name in names if name for axis in self.rules[name])
        return frozenset(axis for axis in several if self.mesh.shape[axis] > 1)

    def sharding(self, names: Names, shape: Sequence[int]) -> NamedSharding:
        return NamedSharding(self.mesh, self.spec(names, shape))


_PLACEMENT: ContextVar[Placement | None] = ContextVar("placement", default=None)
_NAMED: ContextVar[bool] = ContextVar("named", default=False)
_SHARD: ContextVar[Placement | None] = ContextVar("shard", default=None)
"""Set inside a function that `over_shards` runs."""


@contextlib.contextmanager
def sharded(placement: Placement | None) -> Iterator[None]:
    """What is traced inside is divided as the placement says."""
    if placement is not None and placement.mesh.size == 1:
        placement = None
    token = _PLACEMENT.set(placement)
    try:
        yield
    finally:
        _PLACEMENT.reset(token)


@contextlib.contextmanager
def named_axes() -> Iterator[None]:
    """Parameters that are initialised inside come in boxes with the logical names of their axes.

    Everywhere else a model's variables are plain arrays.
    """
    token = _NAMED.set(True)
    try:
        yield
    finally:
        _NAMED.reset(token)


def partitioned(init: Callable[..., Array], *names: str | None) -> Callable[..., Any]:
    """An initialiser that knows the logical names of its parameter's axes."""

    @functools.wraps(init)
    def named(*arguments: Any, **options: Any) -> Any:
        value = init(*arguments, **options)
        return nn.LogicallyPartitioned(value, tuple(names)) if _NAMED.get() else value

    return named


def constrain(x: Array, *names: str | None) -> Array:
    """`x`, divided along its axes as their names say."""
    here = _PLACEMENT.get()
    if here is None or _SHARD.get() is not None:
        return x
    return jax.lax.with_sharding_constraint(x, here.sharding(names, x.shape))


def divided(name: str) -> bool:
    """Whether axes of this name are divided among devices."""
    here = _PLACEMENT.get()
    return here is not None and bool(here.axes_of(name))


def stream(x: Array, last: str | None = None) -> Array:
    """`constrain` for what flows through a model, [B, L, ..., D]; `last` names its last axis."""
    return constrain(x, "batch", "length", *(None,) * (x.ndim - 3), last)


def with_gathered(
    function: Callable[[Array, Array], Array], x: Array, parameter: Array, *names: str | None
) -> Array:
    """`function(x, parameter)` of a parameter that is divided for storage over `fsdp`.

    Each device gathers the parameter, applies it to its own rows, and in the backward pass gathers
    it again instead of keeping it; of its gradient it gets the sum of its own share alone.

    Args:
      x: [B, L, ..., D], or [B L, D] where each utterance is on its own.
      names: of the parameter's axes.
    """
    here = _PLACEMENT.get()
    if here is None or here.mesh.shape["fsdp"] == 1:
        return function(x, parameter)
    inputs, outputs = (None if n in STORED else n for n in (names[0], names[-1]))
    rows = ("batch", "length", *(None,) * (x.ndim - 3))[: x.ndim - 1]
    # Units that are divided make the compiler gather them too, so their axis is manual as well; an
    # axis that divides nothing here is not: the backward pass would sum over it.
    manual = here.axes_of("batch", "length", "embed", inputs, outputs)
    stored = here.spec(names, parameter.shape, manual)
    partial = here.axes_of(inputs)

    def shard(x: Array, parameter: Array) -> Array:
        parameter = jax.lax.all_gather(parameter, "fsdp", axis=axis, tiled=True)
        y = function(x, parameter)
        # Sums over a share of the inputs: added up outside, where the gradient needs no sum.
        return y[None] if partial else y

    axis = next((i for i, over in enumerate(stored) if over and "fsdp" in over), None)
    if axis is None:
        return function(x, parameter)
    spec = here.spec((*rows, *(None,) * (len(names) - 2), outputs), None, manual)
    mapped = jax.shard_map(
        shard, mesh=here.mesh, axis_names=manual, check_vma=False,
        in_specs=(here.spec((*rows, inputs), x.shape, manual), stored),
        out_specs=PartitionSpec(tuple(partial), *spec) if partial else spec,
    )  # fmt: skip
    y = jax.checkpoint(mapped)(x, parameter)
    return y.sum(0) if partial else y


def over_shards(
    function: Callable[..., Any], inputs: Sequence[Names], output: Names
) -> Callable[..., Array]:
    """`function` on each device's share of its arguments, as operators and kernels want it.

    Args:
      inputs: logical names of each argument's axes; an argument may be None.
      output: those of the result.
    """
    here = _PLACEMENT.get()
    if here is None:
        return function

    def shard(*arrays: Array | None) -> Any:
        token = _SHARD.set(here)
        try:
            return function(*arrays)
        finally:
            _SHARD.reset(token)

    # Axes that divide nothing here are left to the compiler: made manual, the backward pass would
    # sum over them. Not so axes of one device, and kernels of a TPU want every axis manual.
    manual = here.axes_of(*(name for names in (*inputs, output) for name in names))
    if not manual:
        return function
    manual |= {axis for axis, size in here.mesh.shape.items() if size == 1}

    def spec(x: Array | None, names: Names) -> PartitionSpec:
        return PartitionSpec() if x is None else here.spec(names, x.shape)

    def call(*arrays: Array | None) -> Array:
        return jax.shard_map(
            shard, mesh=here.mesh, axis_names=manual,
            in_specs=tuple(map(spec, arrays, inputs)),
            out_specs=here.spec(output, None),
            # Kernels do not say along which axes their results vary.
            check_vma=False,
        )(*arrays)  # fmt: skip

    return call


def whole_rows(x: Array) -> Array:
    """Inside of `over_shards`: all columns of [B, L, ...] of which this device has a share."""
    here = _SHARD.get()
    if here is None or here.mesh.shape["sequence"] == 1:
        return x
    return jax.lax.all_gather(x, "sequence", axis=1, tiled=True)


def with_neighbours(x: Array, before: int, after: int) -> Array:
    """Inside of `over_shards`: [B, L, ...] with columns of the devices before and after added.

    Zeros stand where the row ends. At most L columns can be had of a neighbour.
    """
    here = _SHARD.get()
    if here is None or here.mesh.shape["sequence"] == 1:
        return jnp.pad(x, ((0, 0), (before, after), *((0, 0),) * (x.ndim - 2)))
    chain = list(itertools.pairwise(range(here.mesh.shape["sequence"])))
    parts = [x]
    if before:
        parts.insert(0, jax.lax.ppermute(x[:, -before:], "sequence", chain))
    if after:
        back = [(target, source) for source, target in chain]
        parts.append(jax.lax.ppermute(x[:, :after], "sequence", back))
    return jnp.concatenate(parts, axis=1)


def first_column(length: int) -> int | Array:
    """Inside of `over_shards`: the column at which this device's share of `length` begins."""
    here = _SHARD.get()
    if here is None or here.mesh.shape["sequence"] == 1:
        return 0
    return jax.lax.axis_index("sequence") * length
