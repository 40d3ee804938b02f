"""StableHLO files say what JAX says, of batches of any size, and without emojax."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from jax import export

from emojax.interop.serving import INPUTS
from emojax.interop.stablehlo import PLATFORMS, load_stablehlo, to_stablehlo
from tests.batches import SIGNATURE
from tests.interop import served

pytest.importorskip("flatbuffers")
RUN = {
    "redifu": "padded", "redifu_authors": "one row", "mult": "padded", "bc_lstm": "padded",
    # All sizes.
    "dialogue_gcn": None,
}  # fmt: skip
"""Models whose programs are compiled, at seconds a shape, and not only written; for which rows."""
EXAMPLE = Path(__file__).parents[2] / "experiments" / "serving_examples" / "stablehlo_jax.py"


def exported(name, folder):
    model, variables, _ = served.made(name)
    with served.open_sizes():
        return to_stablehlo(model, variables, SIGNATURE, folder / "model.stablehlo")


@pytest.mark.parametrize("name", served.CONFIGS)
def test_it_says_what_jax_says_and_takes_any_size(name, tmp_path):
    path = exported(name, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    program = export.deserialize(bytearray(path.read_bytes()))
    assert program.platforms == PLATFORMS
    lines = program.mlir_module().splitlines()
    products = [line for line in lines if "stablehlo.dot_general" in line or "convolution(" in line]
    assert products
    assert all("HIGHEST" in line for line in products)
    assert str(program.in_avals[0].shape) == "(batch, length, 7)"
    if name in RUN:
        found = served.largest_difference(name, load_stablehlo(path), RUN[name])
        assert found < served.TOLERANCE


def test_the_example_says_the_same(tmp_path):
    path = exported("late_fusion", tmp_path)
    given = dict(zip(INPUTS, served.arrays(served.batch_of([[0], [1]], 9)), strict=True))
    np.savez(tmp_path / "example.npz", **given)
    done = subprocess.run(
        [sys.executable, EXAMPLE, path, tmp_path / "example.npz"], capture_output=True, text=True,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = np.array([[float(x) for x in line.split()] for line in done.stdout.splitlines()])
    probability, _ = load_stablehlo(path)(*given.values())
    np.testing.assert_allclose(shown, np.asarray(probability).reshape(shown.shape), atol=1e-3)
