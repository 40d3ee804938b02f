from __future__ import annotations

import jax
import pytest

from emojax.config import RedifuAuthorsConfig
from emojax.evaluate.flops import traced
from emojax.models.redifu_authors import RedifuAuthors
from emojax.nn.layers import identity_statistics
from experiments.bench import flops, workload


@pytest.mark.parametrize("every_place", [True, False])
def test_formula_agrees_with_the_trace(every_place):
    """The trace adds what the formula leaves out: recomputed scores and matrix-vector products."""
    batch = workload.epoch(workload.padded())[0]
    rows, length = batch.label.shape
    capacity = rows * length if every_place else batch.capacity
    batch = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    batch = batch.replace(capacity=capacity)
    model = RedifuAuthors(RedifuAuthorsConfig(), workload.SIGNATURE)
    params = jax.eval_shape(model.init, jax.random.key(0), batch)["params"]

    def loss(params, batch):
        statistics = identity_statistics(workload.SIGNATURE.widths)
        output = model.apply({"params": params, "statistics": statistics}, batch)
        return output.logits.sum() + output.modality_logits.sum()

    found = traced(jax.grad(loss), params, batch)
    formula = flops.authors(workload.SIGNATURE, 512, rows * length, capacity, rows * length**2)
    assert formula <= found <= 1.02 * formula
