"""The function that other runtimes get says what the model says."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate
from emojax.interop.serving import input_shapes, serve
from emojax.ops.target import ANY, for_any_device, target
from tests.batches import SIGNATURE
from tests.interop import served


def test_probabilities_are_those_of_the_model():
    model, variables, _ = served.made("redifu")
    # The same program but for where places come from.
    function = jax.jit(serve(model, variables))
    assert served.largest_difference("redifu", function, "packed") < 1e-6


def test_probabilities_of_the_published_model_are_those_of_its_batches():
    model, variables, apply = served.made("redifu_authors")
    records = [served.CONVERSATIONS[i] for i in (0, 1, 3)]
    batch = collate(BatchPlan(16, ((0,), (1,), (2,)), None, 9), records, SIGNATURE.widths)
    wanted = served.probabilities(apply(batch))
    got = jax.jit(serve(model, variables))(*served.arrays(batch))
    for one, other in zip(wanted, got, strict=True):
        np.testing.assert_allclose(other[batch.segment > 0], one[batch.segment > 0], atol=1e-6)


def test_shapes_of_inputs_are_those_of_a_batch():
    batch = served.batch_of([[0], [1]], 9)
    shapes = input_shapes(SIGNATURE, 2, 9)
    for shape, array in zip(shapes, served.arrays(batch), strict=True):
        assert (shape.shape, shape.dtype) == (array.shape, array.dtype)


def test_programs_for_any_device_are_asked_for_and_no_longer():
    here = target()
    with for_any_device():
        assert target() == (ANY, ANY)
    assert target() == here
    with pytest.raises(ZeroDivisionError), for_any_device():
        _ = 1 / 0
    assert target() == here
