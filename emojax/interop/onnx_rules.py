"""Operations that a graph has a shorter word for.

Once weights are eight bits each, a thousand operations told at length are a third of a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from emojax.interop.onnx_graph import Graph


class Made(NamedTuple):
    """How an array of the graph comes to be: an operation, names of its inputs, its options."""

    operation: str
    inputs: tuple[str, ...]
    options: dict[str, Any]


def shorter(graph: Graph, made: Made) -> str | None:
    """The name of what is the same as an operation's result; None if nothing is shorter."""
    rule = _RULES.get(made.operation)
    return rule(graph, made) if rule else None


def _unsqueeze(graph: Graph, made: Made) -> str | None:
    """Of a constant; of what has these axes anyway; of what got others just before."""
    (x, name), new = made.inputs, _axes(graph, made.inputs[1])
    if (array := graph.known(x)) is not None:
        return graph.constant(np.expand_dims(array, new))
    below = graph.made_by(x)
    match below:
        case Made("Unsqueeze", (inner, first), _):
            # The first axes are counted without those of the second.
            before = _axes(graph, first)
            others = [i for i in range(max(before) + len(new) + 1) if i not in new]
            axes = sorted((*new, *(others[i] for i in before)))
            return graph.node("Unsqueeze", inner, graph.constant(axes, np.int64))
        case Made("Squeeze", (inner, old), _) if old == name:
            return inner
        case Made(operation, (inner, old), _) if operation.startswith("Reduce") and old == name:
            return graph.node(operation, inner, name, keepdims=1)
        case Made("Gather", (inner, place), {"axis": axis}) if new == (axis,):
            start = graph.known(place)
            if start is not None and start.ndim == 0:
                part = ([start], [start + 1], [axis], [1])
                return graph.node("Slice", inner, *(graph.constant(e, np.int64) for e in part))
    return None


def _squeeze(graph: Graph, made: Made) -> str | None:
    """Of a part that is one place along an axis."""
    match graph.made_by(made.inputs[0]):
        case Made("Slice", (inner, first, _, axes, _), _) if axes == made.inputs[1]:
            # What is squeezed is a single place, wherever the part is said to end.
            start = graph.known(first)
            if start is not None and start.size == 1 and start[0] >= 0:
                (axis,) = _axes(graph, axes)
                return graph.node("Gather", inner, graph.constant(start[0], np.int64), axis=axis)
    return None


def _concat(graph: Graph, made: Made) -> str | None:
    return made.inputs[0] if len(made.inputs) == 1 else None


def _pow(graph: Graph, made: Made) -> str | None:
    exponent = graph.known(made.inputs[1])
    if exponent is not None and exponent.ndim == 0 and exponent == -1:
        return graph.node("Reciprocal", made.inputs[0])
    return None


def _add(graph: Graph, made: Made) -> str | None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias along the last axis."""

    def of(name: str, operation: str) -> tuple[str, ...]:
        """What an operation is of; two empty names if it is another one."""
        below = graph.made_by(name)
        return below.inputs if below is not None and below.operation == operation else ("", "")

    def mean(name: str) -> tuple[str, np.ndarray | None, str]:
        """(of what, of how many, along which axis)."""
        total, count = of(name, "Div")
        match graph.made_by(total):
            case Made("ReduceSum", (x, axis), {"keepdims": 1}):
                return x, graph.known(count), axis
        return "", None, ""

    product, bias = made.inputs[0], graph.known(made.inputs[1])
    normal, scale_name = of(product, "Mul")
    centred, inverse = of(normal, "Mul")
    variance, epsilon_name = of(of(of(inverse, "Reciprocal")[0], "Sqrt")[0], "Add")
    x, middle = of(centred, "Sub")
    scale, epsilon = graph.known(scale_name), graph.known(epsilon_name)
    if not x or scale is None or bias is None or epsilon is None:
        return None
    (whole, count, axis), (squares, others, along) = mean(middle), mean(variance)
    width = scale.shape[-1] if scale.ndim else 0
    if (
        whole != x or of(squares, "Mul") != (centred, centred) or axis != along
        or not count == others == width == scale.size == bias.size
        or bias.shape[-1] != width or _axes(graph, axis) != (scale.ndim - 1,)
    ):  # fmt: skip
        return None
    vectors = (graph.constant(each.ravel()) for each in (scale, bias))
    return graph.node("LayerNormalization", x, *vectors, axis=-1, epsilon=float(epsilon))


def _axes(graph: Graph, name: str) -> tuple[int, ...]:
    axes = graph.known(name)
    assert axes is not None
    return tuple(map(int, axes))


_RULES: dict[str, Callable[[Graph, Made], str | None]] = {
    "Add": _add, "Concat": _concat, "Pow": _pow, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
}  # fmt: skip
