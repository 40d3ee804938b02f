"""Meshes from configs, and the rows that go to their devices."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from emojax.config import MeshConfig
from emojax.dist.mesh import AXES, axis_sizes, build_mesh, mesh_here, put_batch
from emojax.dist.rules import RULES, placement
from emojax.errors import ConfigError
from emojax.nn.sharding import Placement
from tests.batches import pack, random_conversation


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh wants to know of a device."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    process_index: int = 0


@pytest.mark.parametrize(
    ("config", "devices", "expected"),
    [
        (MeshConfig(), 1, (1, 1, 1, 1)),
        (MeshConfig(), 8, (8, 1, 1, 1)),
        (MeshConfig(fsdp=4), 8, (2, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=2, sequence=2, model=2), 8, (1, 2, 2, 2)),
    ],
)
def test_what_is_left_of_the_devices_divides_rows(config, devices, expected):
    assert tuple(axis_sizes(config, devices)[axis] for axis in AXES) == expected


@pytest.mark.parametrize(
    ("config", "devices"),
    [(MeshConfig(data=2), 8), (MeshConfig(data=8), 1), (MeshConfig(fsdp=3), 8),
     (MeshConfig(model=16), 8), (MeshConfig(data=2, sequence=8), 8)],
)  # fmt: skip
def test_axes_that_do_not_multiply_to_the_devices_are_refused(config, devices):
    with pytest.raises(ConfigError, match=rf"cannot be laid over {devices} device.* must be their"):
        axis_sizes(config, devices)


def test_slices_share_the_data_axis_alone():
    chips = [Chip(i, slice_index=i // 4) for i in range(8)]
    mesh = build_mesh(MeshConfig(data=4, model=2), chips)
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 1, "sequence": 1, "model": 2}
    assert (slices == slices[:, :1, :1, :1]).all()
    assert slices[:, 0, 0, 0].tolist() == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="mesh.data = 1 must be a multiple of the 2 slices"):
        build_mesh(MeshConfig(fsdp=8), chips)


def test_one_device_has_no_mesh():
    assert mesh_here(MeshConfig()) is None
    assert mesh_here(MeshConfig(model=4), or_rows=True) is None
    with pytest.raises(ConfigError):
        mesh_here(MeshConfig(model=4))


def test_rules_need_no_devices():
    """Shardings of a mesh that nobody has, as ahead-of-time compilation asks for them."""
    rules = Placement(AbstractMesh((4, 2, 1, 8), AXES), RULES)
    assert rules.spec(("batch", "length", None), (16, 40, 3)) == PartitionSpec(
        ("data", "fsdp"), None, None
    )
    assert rules.spec(("embed", "heads"), (64, 64)) == PartitionSpec(("fsdp",), ("model",))
    # What does not divide stays whole.
    assert rules.spec(("embed", "heads"), (63, 64)) == PartitionSpec(None, ("model",))
    with pytest.raises(KeyError):
        rules.spec(("widht",), (8,))


def test_a_batch_arrives_as_it_was_read():
    """Over a mesh of the one device there is, rows in any order that a process holds them."""
    mesh = build_mesh(MeshConfig(), jax.devices()[:1])
    batch = jax.tree.map(np.asarray, pack([[random_conversation(i, 5)] for i in range(3)], 8))
    put = put_batch(batch, range(3), 3, mesh)
    jax.tree.map(np.testing.assert_array_equal, put, batch)
    assert put.text.sharding.spec == placement(mesh).spec(("batch", "length", None), put.text.shape)
