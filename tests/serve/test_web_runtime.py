"""ONNX Runtime Web says of a model what ONNX Runtime says, and why it cannot."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.interop.onnx import OnnxModel, to_onnx
from emojax.interop.serving import INPUTS
from emojax.serve.web_runtime import WebModel
from tests.batches import SIGNATURE
from tests.interop import served

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not here")


@pytest.mark.parametrize("name", ["redifu", "late_fusion"])
def test_it_says_what_the_runtime_for_cpus_says(name, tmp_path):
    model, variables, _ = served.made(name)
    path = tmp_path / "model.onnx"
    with served.open_sizes():
        to_onnx(model, variables, SIGNATURE, path)
    web, native = WebModel(path), OnnxModel(path)
    for rows in ([[0]], [[0], [1]]):
        arrays = served.arrays(served.batch_of(rows, 12))
        found = web(dict(zip(INPUTS, arrays, strict=True)))
        assert found.shape == (len(rows), 12, len(SIGNATURE.labels))
        real = np.asarray(arrays[INPUTS.index("segment")]) > 0
        np.testing.assert_allclose(found[real], native(*arrays)[0][real], rtol=0, atol=1e-6)
    web.close()


def test_what_is_no_model_is_told(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model at all")
    web = WebModel(path)
    with pytest.raises(DataError, match=r"ONNX Runtime Web: .*rror"):
        web({"text": np.zeros((1, 2, 3), np.float32)})
    web.close()
