"""Devices arranged along named axes, and batches spread over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

from emojax.config import MeshConfig
from emojax.dist.rules import batch_shardings, placement, replicated
from emojax.errors import ConfigError
from emojax.types import Batch

AXES = ("data", "fsdp", "sequence", "model")
"""From the axis that talks least to the one that talks most, which gets the nearest neighbours."""


def axis_sizes(config: MeshConfig, devices: int) -> dict[str, int]:
    """Size of every axis for a number of devices.

    Raises:
      ConfigError: the axes do not multiply to it.
    """
    others = config.fsdp * config.sequence * config.model
    data = devices // others if config.data is None else config.data
    if data * others != devices or data == 0:
        axes = ", ".join(f"{a} = {s}" for a in AXES if (s := getattr(config, a)) is not None)
        raise ConfigError(
            f"mesh: {axes} cannot be laid over {devices} device{'s' * (devices != 1)}. The product "
            "of data, fsdp, sequence and model must be their number; data may be left out, and is "
            "then what remains"
        )
    return {"data": data, "fsdp": config.fsdp, "sequence": config.sequence, "model": config.model}


def build_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over these devices, or over all there are.

    Several slices of TPU, joined by a slower network, share the data axis.

    Raises:
      ConfigError: the devices cannot be arranged so.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = axis_sizes(config, len(devices))
    slices = len({getattr(device, "slice_index", 0) or 0 for device in devices})
    if sizes["data"] % slices:
        raise ConfigError(
            f"mesh.data = {sizes['data']} must be a multiple of the {slices} slices, between which "
            "only rows are divided"
        )
    shape = tuple(sizes[axis] for axis in AXES)
    try:
        if slices > 1:
            arranged = mesh_utils.create_hybrid_device_mesh(
                (shape[0] // slices, *shape[1:]), (slices, 1, 1, 1), devices,
                allow_split_physical_axes=True,
            )  # fmt: skip
        else:
            arranged = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except NotImplementedError as error:
        raise ConfigError(f"mesh: the devices' network has no room for {sizes}: {error}") from error
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_here(config: MeshConfig, *, or_rows: bool = False) -> Mesh | None:
    """The mesh over all devices; None where there is one device, and nothing to divide.

    Args:
      or_rows: where the axes do not fit the devices, divide rows alone over all of them.

    Raises:
      ConfigError: the devices cannot be arranged so.
    """
    try:
        mesh = build_mesh(config)
    except ConfigError:
        if not or_rows:
            raise
        mesh = build_mesh(MeshConfig())
    return mesh if mesh.size > 1 else None


def row_shards(mesh: Mesh | AbstractMesh | None) -> int:
    """Number of parts into which the rows of a batch are divided."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def held_rows(mesh: Mesh | None) -> Callable[[int], Sequence[int]] | None:
    """(rows of a batch) -> those that this process's devices hold; None where it is alone."""
    if mesh is None or jax.process_count() == 1:
        return None

    def held(rows: int) -> list[int]:
        sharding = placement(mesh).sharding(("batch",), (rows,))
        shares = sharding.addressable_devices_indices_map((rows,)).values()
        return sorted({row for share in shares if share for row in range(rows)[share[0]]})

    return held


def key_everywhere(seed: int, mesh: Mesh | None) -> jax.Array:
    """`jax.random.key(seed)` on every device of the mesh."""
    if mesh is None:
        return jax.random.key(seed)
    return jax.jit(jax.random.key, out_shardings=replicated(mesh))(np.uint32(seed))


def put_batch(batch: Batch, held: Sequence[int], rows: int, mesh: Mesh | None) -> Batch:
    """A batch on the devices of the mesh, or of the one device without a mesh.

    Args:
      batch: the rows that this process read.
      held: which rows of the whole batch those are.
      rows: number of rows of the whole batch.
    """
    if mesh is None:
        return jax.device_put(batch)
    place = {row: index for index, row in enumerate(held)}

    def put(x: np.ndarray, sharding: Any) -> jax.Array:
        shape = (rows, *x.shape[1:])

        def share(index: Any) -> np.ndarray:
            mine = [place[row] for row in range(rows)[index[0]]]
            return (x if len(mine) == len(x) else x[mine])[(slice(None), *index[1:])]

        return jax.make_array_from_callback(shape, sharding, share)

    whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), batch)
    return jax.tree.map(put, batch, batch_shardings(mesh, whole))
