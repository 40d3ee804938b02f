"""Programs compiled for a TPU that is not here."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from emojax.dist.aot import DoesNotFit, compiled, readable
from emojax.dist.slices import parse_slice


def test_flops_collectives_and_memory_are_those_of_one_device(libtpu):
    mesh = Mesh(np.array(parse_slice("v5e:2x2").devices()), ("data",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(axis)) for axis in ("data", None))
    x = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((256, 128), jnp.float32, sharding=whole)
    step = jax.jit(lambda x, w: x.T @ (x @ w), out_shardings=whole)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        program = compiled(step.trace(x, w), mesh)
    assert program.flops == pytest.approx(2 * 2 * 128 * 256 * 128, rel=0.02)
    (said,) = program.collectives
    assert (said.kind, said.axes, said.group) == ("all-reduce", ("data",), 4)
    assert said.bytes == 256 * 128 * 4
    assert program.memory["arguments"] == (128 * 256 + 256 * 128) * 4
    assert (program.kernels, program.kernel_flops, program.loops) == ({}, 0, 0)


def test_a_program_too_large_for_a_device(libtpu):
    mesh = Mesh(np.array(parse_slice("v5e:1x1").devices()), ("data",))
    x = jax.ShapeDtypeStruct((1 << 30,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        pytest.raises(DoesNotFit, match=r"Ran out of memory.*15\.75G.*Fewer rows"),
    ):
        compiled(jax.jit(lambda *xs: [x + 1 for x in xs]).trace(x, x, x, x), mesh)


def test_bytes_as_people_read_them():
    assert [readable(n) for n in (512, 3 << 20, 1536 << 20)] == ["0.5 KiB", "3.00 MiB", "1.50 GiB"]
