"""Programs written by hand, in every way in which XLA writes groups of devices."""

from __future__ import annotations


import numpy as np
import pytest

from emojax.dist.collectives import collectives, summary
from tests.dist.test_mesh import Chip


def mesh():
    from jax.sharding import Mesh

    chips = np.array([Chip(i, 0) for i in range(8)], object).reshape(2, 2, 2)
    return Mesh(chips, ("data", "fsdp", "model"))


def program(*lines: str) -> str:
    return "\n".join(["ENTRY %main (p: f32[4]) -> f32[4] {", *(f"  {line}" for line in lines), "}"])


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ("model",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("{{5,1,4,0},{7,6,3,2}}", ("data", "model")),
        ("{{0,1,2,3,4,5,6,7}}", ("data", "fsdp", "model")),
        ("{}", ("data", "fsdp", "model")),
        ("{{0,3},{1,2},{4,7},{5,6}}", ()),
        ("[4,2]<=[8]", ("model",)),
        ("[2,4]<=[8]", ("fsdp", "model")),
        ("[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
        ("[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("mesh['a'=8] {'a'}", ("data", "fsdp", "model")),
        ("mesh['a'=2,'b'=4] {'a'}", ("data",)),
        ("mesh['a'=2,'b'=4] {'b'}", ("fsdp", "model")),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", ("model",)),
        ("mesh['a'=2,'b'=4] {'b':(1)2}", ("fsdp",)),
        ("mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", ("model",)),
        ("mesh['a'=4,'b'=2], device_ids=(0,1,4,5,2,3,6,7) {'b'}", ("model",)),
    ],
)
def test_groups_of_devices_are_axes_of_the_mesh(groups, axes):
    line = f"%r = f32[4]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, to_apply=%add"
    (found,) = collectives(program(line), mesh())
    assert (found.kind, found.axes, found.bytes) == ("all-reduce", axes, 16)


@pytest.mark.parametrize(
    ("instruction", "size"),
    [
        ("f32[4,8]{1,0} all-reduce(%p)", 128),
        ("(f32[4]{0}, bf16[3,2]{1,0}, /*index=2*/s8[]) all-reduce(%p, %q, %r)", 16 + 12 + 1),
        ("bf16[4,8]{1,0:T(8,128)(2,1)} all-gather(%p)", 32),
        ("(f32[4]{0}, f32[8]{0}) all-gather-start(%p)", 16),
        ("f32[4]{0} reduce-scatter(%p)", 32),
        ("(pred[4]{0}, pred[4]{0}) all-to-all(%p, %q)", 8),
        ("f32[8]{0} all-reduce-start(%p)", 32),
    ],
)
def test_bytes_are_those_of_the_operand(instruction, size):
    (found,) = collectives(
        program(f'%r = {instruction}, replica_groups=[4,2]<=[8], metadata={{op_name="a/b"}}'),
        mesh(),
    )
    assert (found.bytes, found.group, found.name) == (size, 2, "a/b")


def test_a_permutation_is_along_the_axes_on_which_somebody_moves():
    line = "%r = s32[4]{0} collective-permute(%p), source_target_pairs={{0,2},{1,3},{4,6},{5,7}}"
    (found,) = collectives(program(line), mesh())
    assert (found.axes, found.bytes) == (("fsdp",), 16)


def test_pieces_of_a_collective_that_goes_on_beside_other_work_count_once():
    pieces = [
        f"%gather.{i} = bf16[8]{{0}} all-gather(%p), channel_id=1, replica_groups=[1,8]<=[8], "
        f'frontend_attributes={{chain_id="{chain}"}}, metadata={{op_name="{chain}"}}'
        for i, chain in enumerate([0, 0, 1, 0, 1])
    ]
    found = collectives(program(*pieces), mesh())
    assert [(each.name, each.bytes) for each in found] == [("0", 2), ("1", 2)]


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    text = """
%all-reduce-scatter.2 (input: bf16[16,4]) -> bf16[2,4] {
  %input = bf16[16,4]{1,0} parameter(0)
  %all-reduce.5 = bf16[16,4]{1,0} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  %device = u32[] partition-id()
  ROOT %part = bf16[2,4]{1,0} dynamic-slice(%all-reduce.5, %device, %zero)
}
""" + program("%s = bf16[2,4]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.2")
    (found,) = collectives(text, mesh())
    assert (found.kind, found.bytes, found.group, found.times) == ("reduce-scatter", 128, 8, 1)


def test_devices_on_their_own_say_nothing():
    line = "%r = f32[4]{0} all-reduce(%p), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}"
    assert collectives(program(line), mesh()) == []


LOOP = """
%body.1 (t: f32[4]) -> f32[4] {
  %x = f32[4]{0} all-gather(%t), replica_groups=[4,2]<=[8]
  %y = f32[4]{0} while(%x), condition=%inner_condition, body=%inner, BACKEND
}

%inner (t: f32[4]) -> f32[4] {
  ROOT %z = f32[4]{0} all-reduce(%t), replica_groups=[1,8]<=[8], to_apply=%add
}

ENTRY %main (p: f32[4]) -> f32[4] {
  %w = f32[4]{0} while(%p), condition=%c, body=%body.1, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %v = f32[4]{0} all-reduce(%w), replica_groups=[1,8]<=[8], to_apply=%add
}
"""  # noqa: E501


def test_loops_multiply():
    text = LOOP.replace("BACKEND", 'backend_config={"known_trip_count":{"n":"5"}}')
    found = collectives(text, mesh())
    assert [(each.kind, each.times) for each in found] == [
        ("all-gather", 3), ("all-reduce", 15), ("all-reduce", 1)
    ]  # fmt: skip
    assert summary(found) == {
        "all-gather model": {"count": 3, "bytes": 24},
        "all-reduce data,fsdp,model": {"count": 16, "bytes": 256},
    }


def test_a_loop_of_unknown_length_is_said_to_be_one():
    found = collectives(LOOP.replace("BACKEND", "metadata={}"), mesh())
    assert [each.times for each in found] == [3, None, 1]


def test_groups_in_an_unknown_way_are_an_error():
    with pytest.raises(ValueError, match="written in an unknown way"):
        collectives(program("%r = f32[4]{0} all-reduce(%p), replica_groups=<what>"), mesh())
