"""Slices by name, and what is said of them without a compiler."""

from __future__ import annotations

import pytest

from emojax.dist import slices
from emojax.dist.slices import CHIPS, parse_slice
from emojax.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "chips", "devices"),
    [("v5e:16x16", 256, 256), ("v4:4x4x4", 64, 64), ("v7x:2x2x1", 4, 8), ("tpu7x:1x1x1", 1, 2)],
)
def test_a_slice_by_its_name(name, chips, devices):
    where = parse_slice(name)
    assert (where.chips, where.device_count) == (chips, devices)
    assert where.device_memory * devices == where.chip.hbm * chips


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("v9:2x2", "v4, v5e, v5p, v6e, v7x"), ("v5e", "for example v5e:16x16"),
        ("v5e:2x2x1", "has 2 sides"), ("v5e:32x32", "at most 256"), ("v5p:4x4", "v5p:4x4x4"),
        ("v5e:0x4", "at most"), ("", "for example"),
    ],
)  # fmt: skip
def test_what_is_no_slice(name, problem):
    with pytest.raises(ConfigError, match=problem):
        parse_slice(name)


def test_a_ring_has_one_port_each_way():
    """One axis of the torus: 2 of 4 or 6 ports, in one direction each."""
    assert CHIPS["v5e"].ring_bandwidth == 100e9
    assert CHIPS["v5p"].ring_bandwidth == CHIPS["v7x"].ring_bandwidth == 200e9


def test_without_libtpu_the_command_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    with pytest.raises(ConfigError, match=r"libtpu\.so, and there is no such file"):
        parse_slice("v5e:1x1").devices()
    monkeypatch.delenv("TPU_LIBRARY_PATH")
    monkeypatch.setattr(slices.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install .*libtpu==\d"):
        parse_slice("v5e:1x1").devices()


@pytest.mark.parametrize("chip", CHIPS)
def test_libtpu_knows_every_chip(chip, libtpu):
    where = parse_slice(f"{chip}:{'2x2' if CHIPS[chip].sides == 2 else '2x2x1'}")
    devices = where.devices()
    assert len(devices) == where.device_count
    assert {device.device_kind for device in devices} == {where.chip.kind}


def test_sides_that_no_slice_has(libtpu):
    with pytest.raises(ConfigError, match="libtpu knows no slice v5e:3x5"):
        parse_slice("v5e:3x5").devices()
