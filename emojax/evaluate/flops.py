"""How much arithmetic a model needs, counted in its trace.

Only matrix products count, 2 FLOPs a multiply-add. What stands in a loop counts as often as the
loop runs, which the cost analysis of a compiled program does not do: there the body counts once.
Of branches the dearest counts. A product counts whole, masked parts included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.extend.core import jaxprs_in_params
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate


def traced(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of the matrix products in the trace of `function(*arguments)`."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def per_conversation(model: nn.Module, variables: Any, widths: Sequence[int], length: int) -> int:
    """FLOPs of a forward pass over one conversation of L = `length` utterances.

    It has a row of its own that it fills, so no padding is counted. What operators do on CPU is
    counted on any device: a fused kernel hides its products, and a number that is to compare models
    must not depend on where they were trained.
    """
    batch = collate(BatchPlan(length, ((),)), (), widths)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), variables)
    device = AbstractDevice("cpu", None, "cpu")
    mesh = AbstractMesh((1,), ("all",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        return traced(model.apply, shapes, batch)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contract, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = math.prod(equation.outvars[0].aval.shape)
            total += 2 * out * math.prod(left[axis] for axis in contract)
        inner = [_count(sub) for sub in jaxprs_in_params(equation.params)]
        if equation.primitive.name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * equation.params.get("length", 1)
    return total
