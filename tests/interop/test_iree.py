"""IREE modules say what JAX says, row by row, of rows that fit."""

from __future__ import annotations

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.interop.iree import IreeModel, to_iree
from tests.batches import SIGNATURE
from tests.interop import served

for package in ("iree.compiler", "iree.runtime"):
    pytest.importorskip(package)


@pytest.mark.parametrize("name", ["redifu, v2, within the utterance", "bc_lstm"])
def test_it_says_what_jax_says_of_rows_that_fit(name, tmp_path):
    model, variables, apply = served.made(name)
    written = to_iree(model, variables, SIGNATURE, tmp_path, (24,))
    assert [path.name for path in written] == ["model_24.vmfb"]
    found = IreeModel(tmp_path)
    batch = served.batch_of([[0, 1], [3], [2]], 16)
    real = np.asarray(batch.segment) > 0
    wanted = served.probabilities(apply(batch))
    for ours, theirs in zip(found(*served.arrays(batch)), wanted, strict=True):
        np.testing.assert_allclose(ours[real], np.asarray(theirs)[real], atol=served.TOLERANCE)
    with pytest.raises(DataError, match="rows of 25 columns; 24 is the most"):
        found(*served.arrays(served.batch_of([[0]], 25)))
