"""The benchmark and the tuner of differential attention, at sizes that take no time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from emojax.ops.diff_attention import blocks
from emojax.ops.diff_attention.shapes import SPECIFIED, Shape
from experiments.bench import diff_attention, timing, tune_diff_attention

TINY = Shape(2, 24, 2, 2, 8, 16)


@pytest.fixture(autouse=True)
def known_limit(monkeypatch):
    limit = timing.Limit(1e12, 1e11, "made up")
    monkeypatch.setattr(timing, "limit", lambda dtype: limit)


def test_work_is_that_of_the_specification():
    """In units of L^2 d FLOPs a head pair: 8 forward, 20 backward; 22 arrays of L d moved."""
    for shape in SPECIFIED:
        unit = shape.rows * shape.heads * shape.length * shape.width
        assert shape.flops(backward=False) == 8 * unit * shape.length
        assert shape.flops(backward=True) == 28 * unit * shape.length
        assert shape.bytes(2, backward=False) + shape.bytes(2, backward=True) >= 2 * 22 * unit


def test_measures_every_contender_and_draws_them(tmp_path):
    records = diff_attention.measure([TINY], "float32", "auto", 1, Console(quiet=True))
    assert [r["contender"] for r in records] == ["emojax", "two", "plain"] * 2
    assert all(r["seconds"] > 0 and r["bytes"] > 0 for r in records)
    two = [r for r in records if r["contender"] == "two"]
    assert all(r["of_two"] == 1 for r in two)
    least = TINY.flops(backward=False) / 1e12
    assert records[1]["share"] == pytest.approx(
        max(least, TINY.bytes(4, backward=False) / 1e11) / records[1]["seconds"]
    )
    diff_attention.plot(records, tmp_path / "times.png")
    assert (tmp_path / "times.png").read_bytes()[:4] == b"\x89PNG"
    assert diff_attention.table(records).row_count == 6


def test_a_contender_that_does_not_fit_is_left_out(monkeypatch):
    monkeypatch.setattr(diff_attention, "_free", lambda: 1.0)
    records = diff_attention.measure([TINY], "float32", "auto", 1, Console(quiet=True))
    assert all("GiB" in r["failed"] for r in records)
    assert diff_attention.table(records).row_count == 6


def test_contenders_compute_the_same_where_they_should():
    keys = jax.random.split(jax.random.key(0), 5)
    x = [jax.random.normal(k, (1, 9, 2, w)) for k, w in zip(keys, (4, 4, 4, 4, 8), strict=True)]
    known = diff_attention.contenders("auto")
    np.testing.assert_allclose(known["emojax"](*x), known["two"](*x), rtol=0, atol=1e-5)
    assert known["plain"](*x).dtype == jnp.float32


def test_tuning_writes_what_the_operator_reads(monkeypatch, tmp_path):
    table = tmp_path / "blocks.json"
    table.write_text(blocks.TABLE.read_text())
    monkeypatch.setattr(blocks, "TABLE", table)
    blocks._stored.cache_clear()
    try:
        best = tune_diff_attention.fastest(TINY, "float32", 1, Console(quiet=True))
        assert set(best) == {"map_elements"}
        found = tune_diff_attention.entries({128: best, 512: best, 4096: {"map_elements": 7}})
        assert found == [{"length": 512, **best}, {"map_elements": 7}]
        blocks.write("xla", "cpu", found)
        assert blocks.tuned("xla", "cpu", 500) == best
        assert blocks.tuned("xla", "cpu", 513) == {"map_elements": 7}
        assert blocks.tuned("xla", "another", 513) != {"map_elements": 7}
        assert json.loads(table.read_text())["pallas_tpu"]["default"]
    finally:
        blocks._stored.cache_clear()


@pytest.mark.parametrize("module", ["diff_attention", "tune_diff_attention"])
def test_refuses_what_it_cannot_time(module):
    command = [sys.executable, "-m", f"experiments.bench.{module}", "--columns", "77"]
    root = Path(__file__).parents[2]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert finished.returncode == 2
    assert "there are 128, 512, 4096" in finished.stderr
