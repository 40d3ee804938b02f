"""JAX's operations in ONNX's words, those of a model that predicts.

There are four dozen, a few lines each, so nothing has to be patched into JAX to get from a model to
its file. What follows from constants alone is computed now.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from jax.extend.core import ClosedJaxpr, Literal
from onnx import helper

from emojax.interop.onnx_graph import Graph, Known, Value

_LAST = np.iinfo(np.int64).max
_BEFORE_FIRST = np.iinfo(np.int64).min


def run(graph: Graph, program: ClosedJaxpr, arguments: Sequence[Known]) -> list[Known]:
    """The results of a program whose operations become nodes of the graph.

    Raises:
      NotImplementedError: it needs an operation that is not among these.
    """
    jaxpr = program.jaxpr
    known: dict[Any, Known] = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= zip(jaxpr.constvars, map(np.asarray, program.consts), strict=True)

    def find(x: Any) -> Known:
        if isinstance(x, Literal):
            aval: Any = x.aval
            return np.asarray(x.val, aval.dtype)
        return known[x]

    for equation in jaxpr.eqns:
        inputs = [find(x) for x in equation.invars]
        inner, name = _called(equation.params), equation.primitive.name
        if inner is not None:
            found = run(graph, inner, inputs)
        elif all(isinstance(x, np.ndarray) for x in inputs) and _settled(equation):
            results = equation.primitive.bind(*inputs, **equation.params)
            several = equation.primitive.multiple_results
            found = list(map(np.asarray, results if several else [results]))
        elif name in _OPERATIONS:
            found = _OPERATIONS[name](graph, equation, *inputs)
        else:
            raise NotImplementedError(f"JAX's operation {name} is not among those told in ONNX")
        known |= zip(equation.outvars, found, strict=True)
    return [find(x) for x in jaxpr.outvars]


def _called(options: dict[str, Any]) -> ClosedJaxpr | None:
    """The program inside of `jit`, `checkpoint` and functions with derivatives of their own."""
    inner = options.get("jaxpr", options.get("call_jaxpr"))
    if inner is None or "num_carry" in options:
        return None
    return inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())


def _settled(equation: Any) -> bool:
    """Whether no size in it is open."""
    sizes = [size for x in equation.outvars for size in x.aval.shape]
    return all(isinstance(size, int) for size in (*sizes, equation.params.get("dim", 0)))


def _shape(equation: Any) -> tuple[Any, ...]:
    return tuple(equation.outvars[0].aval.shape)


def _dtype(equation: Any) -> np.dtype:
    return np.dtype(equation.outvars[0].aval.dtype)


def _as_is(name: str, equation: Any) -> list[Known]:
    """A result that is stored whole."""
    return [Value(name, _shape(equation), _shape(equation))]


def _joint(equation: Any, *inputs: Value) -> tuple[Any, ...]:
    """What is stored of an operation on arrays that repeat along some axes."""
    shape = _shape(equation)
    return _repeated(*((1,) * (len(shape) - len(x.stored)) + x.stored for x in inputs))


def _repeated(*stored: tuple[Any, ...]) -> tuple[Any, ...]:
    """The shape of arrays that repeat beside each other."""
    return tuple(next((s for s in each if s != 1), 1) for each in zip(*stored, strict=True))


def _each(make: Callable[..., str]) -> Callable[..., list[Known]]:
    """An operation on each number by itself; `make` writes it, from names."""

    def lower(graph: Graph, equation: Any, *inputs: Known) -> list[Known]:
        values = [graph.value(x) for x in inputs]
        name = make(graph, equation, *(x.name for x in values))
        return [Value(name, _shape(equation), _joint(equation, *values))]

    return lower


def _named(operation: str) -> Callable[..., list[Known]]:
    return _each(lambda graph, _, *names: graph.node(operation, *names))


def _finite(graph: Graph, _: Any, x: str) -> str:
    return graph.node("Less", graph.node("Abs", x), graph.constant(np.inf, np.float32))


def _rest_of_erf(graph: Graph, _: Any, x: str) -> str:
    return graph.node("Sub", graph.constant(1, np.float32), graph.node("Erf", x))


def _power(graph: Graph, equation: Any, x: str) -> str:
    exponent = equation.params["y"]
    if exponent == 2:
        return graph.node("Mul", x, x)
    return graph.node("Pow", x, graph.constant(exponent, _dtype(equation)))


def _select(graph: Graph, equation: Any, which: str, no: str, yes: str) -> str:
    if _dtype(equation).kind != "b":
        return graph.node("Where", which, yes, no)
    # Runtimes choose between numbers alone.
    chosen = graph.node("And", which, yes)
    return graph.node("Or", chosen, graph.node("And", graph.node("Not", which), no))


def _same(graph: Graph, equation: Any, x: Known) -> list[Known]:
    return [x]


def _broadcast(graph: Graph, equation: Any, x: Known) -> list[Known]:
    value, shape, places = graph.value(x), _shape(equation), equation.params["broadcast_dimensions"]
    stored: list[Any] = [1] * len(shape)
    for place, size in zip(places, value.stored, strict=True):
        stored[place] = size
    name, new = value.name, [i for i in range(len(shape)) if i not in places]
    if new:
        name = graph.node("Unsqueeze", name, graph.constant(new, np.int64))
    return [Value(name, shape, tuple(stored))]


def _squeeze(graph: Graph, equation: Any, x: Known) -> list[Known]:
    value, axes = graph.value(x), tuple(map(int, equation.params["dimensions"]))
    name = graph.node("Squeeze", value.name, graph.constant(axes, np.int64)) if axes else value.name
    stored = tuple(size for i, size in enumerate(value.stored) if i not in axes)
    return [Value(name, _shape(equation), stored)]


def _transpose(graph: Graph, equation: Any, x: Known) -> list[Known]:
    value, order = graph.value(x), tuple(map(int, equation.params["permutation"]))
    name = graph.node("Transpose", value.name, perm=order)
    return [Value(name, _shape(equation), tuple(value.stored[i] for i in order))]


def _reshaped(graph: Graph, name: str, old: Sequence[Any], new: Sequence[Any]) -> str:
    """An array of another shape, told without its open sizes where that can be."""
    if tuple(old) == tuple(new):
        return name
    # 0 is the size that was there, and -1, once, what is left.
    told = [
        size if isinstance(size, int) else 0 if i < len(old) and old[i] == size else -1
        for i, size in enumerate(new)
    ]
    known = told.count(-1) <= 1
    return graph.node("Reshape", name, graph.vector(told if known else new))


def _reshape(graph: Graph, equation: Any, x: Known) -> list[Known]:
    name = _reshaped(graph, graph.whole(x), graph.value(x).shape, _shape(equation))
    return _as_is(name, equation)


def _concatenate(graph: Graph, equation: Any, *parts: Known) -> list[Known]:
    axis = int(equation.params["dimension"])
    return _as_is(graph.node("Concat", *map(graph.whole, parts), axis=axis), equation)


def _stack(graph: Graph, equation: Any, *parts: Known) -> list[Known]:
    axis = int(equation.params["axis"])
    place = graph.constant([axis], np.int64)
    parts_there = [graph.node("Unsqueeze", graph.whole(x), place) for x in parts]
    return _as_is(graph.node("Concat", *parts_there, axis=axis), equation)


def _split(graph: Graph, equation: Any, x: Known) -> list[Known]:
    sizes, axis = equation.params["sizes"], int(equation.params["axis"])
    names = graph.several(
        "Split", graph.whole(x), graph.constant(sizes, np.int64), axis=axis, results=len(sizes)
    )
    shapes = [tuple(part.aval.shape) for part in equation.outvars]
    return [Value(name, shape, shape) for name, shape in zip(names, shapes, strict=True)]


def _pad(graph: Graph, equation: Any, x: Known, filling: Known) -> list[Known]:
    before, after, between = zip(*equation.params["padding_config"], strict=True)
    if any(between):
        raise NotImplementedError("ONNX does not pad between numbers")
    pads = graph.vector([*before, *after])
    return _as_is(graph.node("Pad", graph.whole(x), pads, graph.value(filling).name), equation)


def _part(
    graph: Graph, x: Known, first: Sequence[int], last: Sequence[Any], steps: Sequence[int]
) -> str:
    """x[first:last:steps], a triple for each axis."""
    shape = graph.value(x).shape
    axes = [i for i in range(len(shape)) if (first[i], steps[i]) != (0, 1) or last[i] != shape[i]]
    if not axes:
        return graph.whole(x)
    ends = [_LAST if last[i] == shape[i] else last[i] for i in axes]
    return graph.node(
        "Slice", graph.whole(x), graph.constant([first[i] for i in axes], np.int64),
        graph.vector(ends), graph.constant(axes, np.int64),
        graph.constant([steps[i] for i in axes], np.int64),
    )  # fmt: skip


def _slice(graph: Graph, equation: Any, x: Known) -> list[Known]:
    first, last = equation.params["start_indices"], equation.params["limit_indices"]
    steps = equation.params["strides"] or (1,) * len(first)
    return _as_is(_part(graph, x, first, last, steps), equation)


def _reverse(graph: Graph, equation: Any, x: Known) -> list[Known]:
    axes = tuple(map(int, equation.params["dimensions"]))
    told = ([_LAST] * len(axes), [_BEFORE_FIRST] * len(axes), axes, [-1] * len(axes))
    name = graph.node("Slice", graph.whole(x), *(graph.constant(y, np.int64) for y in told))
    return _as_is(name, equation)


def _dynamic_slice(graph: Graph, equation: Any, x: Known, *first: Known) -> list[Known]:
    """A part as large as the whole is the whole, wherever it is said to start."""
    if tuple(equation.params["slice_sizes"]) != graph.value(x).shape:
        raise NotImplementedError("a part whose place is computed")
    return [x]


def _dynamic_update(
    graph: Graph, equation: Any, x: Known, part: Known, *first: Known
) -> list[Known]:
    """Of one place along one axis; elsewhere the part is as large as the whole."""
    value, update = graph.value(x), graph.value(part)
    axes = [i for i, size in enumerate(update.shape) if size != value.shape[i]]
    if len(axes) != 1 or update.shape[axes[0]] != 1:
        raise NotImplementedError("an update of more than one place")
    here = _place(graph, value.shape, axes[0], first[axes[0]])
    return _as_is(graph.node("Where", here, graph.whole(part), graph.whole(x)), equation)


def _place(graph: Graph, shape: Sequence[Any], axis: int, place: Known) -> str:
    """bool[..., size, 1, ...]: whether an index along the axis is the one at `place`."""
    index = _range(graph, shape[axis], np.int32)
    after = len(shape) - axis - 1
    if after:
        index = graph.node("Unsqueeze", index, graph.constant(range(1, after + 1), np.int64))
    return graph.node("Equal", index, graph.value(place).name)


def _range(graph: Graph, size: Any, dtype: Any) -> str:
    if isinstance(size, int):
        return graph.constant(np.arange(size), dtype)
    zero, one = (graph.constant(number, np.int64) for number in (0, 1))
    return graph.cast(graph.node("Range", zero, graph.scalar(size, np.int64), one), dtype)


def _iota(graph: Graph, equation: Any, *_: Known) -> list[Known]:
    shape, axis = _shape(equation), int(equation.params["dimension"])
    name, after = _range(graph, shape[axis], _dtype(equation)), len(shape) - axis - 1
    around = [*range(axis), *range(axis + 1, len(shape))]
    if around:
        name = graph.node("Unsqueeze", name, graph.constant(around, np.int64))
    return [Value(name, shape, (*(1,) * axis, shape[axis], *(1,) * after))]


def _gather(graph: Graph, equation: Any, x: Known, start: Known) -> list[Known]:
    """A slice of an array, places at equal distances, or of each row a place of its own."""
    names, sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    shape, squeezed = graph.value(x).shape, tuple(map(int, names.collapsed_slice_dims))
    moved = [int(a) for a in names.start_index_map if sizes[a] != shape[a]]
    if not moved:
        name = graph.whole(x)
    elif names.operand_batching_dims:
        (axis,) = moved
        if tuple(names.operand_batching_dims) != (0,) or sizes[axis] != 1 or squeezed:
            raise NotImplementedError("a part of each row")
        return _as_is(_of_each_row(graph, x, start, axis, names), equation)
    elif isinstance(start, np.ndarray):
        first, last, steps = [0] * len(shape), list(sizes), [1] * len(shape)
        for axis, place in zip(names.start_index_map, start.T, strict=True):
            if axis in moved:
                places = place.ravel()
                step = int(places[1] - places[0]) if len(places) > 1 else 1
                if len(places) > 1 and (len(moved) > 1 or (np.diff(places) != step).any()):
                    raise NotImplementedError("places at unequal distances")
                first[axis], steps[axis] = int(places[0]), step
                last[axis] = int(places[-1]) + sizes[axis]
        name = _part(graph, x, first, last, steps)
        # Several places leave an axis of their own where the one that they were taken of was.
        squeezed = squeezed if start.ndim == 1 else ()
    else:
        raise NotImplementedError("places that are computed")
    if squeezed:
        name = graph.node("Squeeze", name, graph.constant(squeezed, np.int64))
    return _as_is(name, equation)


def _of_each_row(graph: Graph, x: Known, start: Known, axis: int, names: Any) -> str:
    """x[row, ..., place[row], ...] with the axis kept: all else is hidden, and a sum is left."""
    value, column = graph.value(x), list(names.start_index_map).index(axis)
    place = graph.node("Gather", graph.whole(start), graph.constant(column, np.int64), axis=1)
    after = graph.constant(range(1, len(value.shape)), np.int64)
    place = graph.node("Unsqueeze", place, after)
    here = _place(graph, value.shape, axis, Value(place, (), ()))
    zero = graph.constant(0, np.float32)
    found = graph.node("Where", here, graph.whole(x), zero)
    return graph.node("ReduceSum", found, graph.constant([axis], np.int64), keepdims=1)


def _reduce(operation: str) -> Callable[..., list[Known]]:
    def lower(graph: Graph, equation: Any, x: Known) -> list[Known]:
        axes = graph.constant(tuple(map(int, equation.params["axes"])), np.int64)
        return _as_is(graph.node(operation, graph.whole(x), axes, keepdims=0), equation)

    return lower


def _cumulative(operation: str, empty: int) -> Callable[..., list[Known]]:
    """The least or largest number up to each place, from a square of places."""

    def lower(graph: Graph, equation: Any, x: Known) -> list[Known]:
        shape, axis = _shape(equation), int(equation.params["axis"])
        other = _range(graph, shape[axis], np.int32)
        mine = graph.node("Unsqueeze", other, graph.constant([1], np.int64))
        order = "GreaterOrEqual" if equation.params["reverse"] else "LessOrEqual"
        seen = graph.node(order, other, mine)
        after = len(shape) - axis - 1
        if after:
            seen = graph.node("Unsqueeze", seen, graph.constant(range(2, 2 + after), np.int64))
        rows = graph.node("Unsqueeze", graph.whole(x), graph.constant([axis], np.int64))
        rows = graph.node("Where", seen, rows, graph.constant(empty, _dtype(equation)))
        place = graph.constant([axis + 1], np.int64)
        return _as_is(graph.node(operation, rows, place, keepdims=0), equation)

    return lower


def _sum_so_far(graph: Graph, equation: Any, x: Known) -> list[Known]:
    axis, reverse = graph.constant(equation.params["axis"], np.int64), equation.params["reverse"]
    return _as_is(graph.node("CumSum", graph.whole(x), axis, reverse=int(reverse)), equation)


def _product(graph: Graph, equation: Any, x: Known, y: Known) -> list[Known]:
    """A product of matrices, or numbers times numbers where nothing is summed."""
    (x_sum, y_sum), (x_rows, y_rows) = equation.params["dimension_numbers"]
    x_free, y_free = (
        [i for i in range(len(graph.value(of).shape)) if i not in (*summed, *rows)]
        for of, summed, rows in ((x, x_sum, x_rows), (y, y_sum, y_rows))
    )
    shapes = graph.value(x).shape, graph.value(y).shape
    rows, total = [shapes[0][i] for i in x_rows], math.prod(shapes[0][i] for i in x_sum)
    of_x, of_y = [shapes[0][i] for i in x_free], [shapes[1][i] for i in y_free]
    if not x_sum:
        x = _arranged(graph, x, (*x_rows, *x_free), (*rows, *of_x, *(1,) * len(of_y)))
        y = _arranged(graph, y, (*y_rows, *y_free), (*rows, *(1,) * len(of_x), *of_y))
        name = graph.node("Mul", graph.whole(x), graph.whole(y))
    elif len(x_sum) == len(of_x) == len(of_y) == 1:
        x = _turned(graph, x, (*x_rows, *x_free, *x_sum), -1)
        y = _turned(graph, y, (*y_rows, *y_sum, *y_free), -2)
        name = graph.node("MatMul", x.name, y.name)
        stored = (*_repeated(x.stored[:-2], y.stored[:-2]), x.stored[-2], y.stored[-1])
        return [Value(name, _shape(equation), stored)]
    else:
        # Without rows in common, all free axes of x are rows of a single product.
        lines = of_x if not rows and of_x else [math.prod(of_x)]
        x = _arranged(graph, x, (*x_rows, *x_free, *x_sum), (*rows, *lines, total))
        y = _arranged(graph, y, (*y_rows, *y_sum, *y_free), (*rows, total, math.prod(of_y)))
        name = graph.node("MatMul", graph.whole(x), graph.whole(y))
        name = _reshaped(graph, name, (*rows, *lines, math.prod(of_y)), (*rows, *of_x, *of_y))
    return _as_is(name, equation)


def _turned(graph: Graph, x: Known, order: Sequence[int], summed: int) -> Value:
    """Axes in another order; repetitions along that which is summed are written out, no others."""
    if isinstance(x, np.ndarray):
        x = x.transpose(order)
        return Value(graph.constant(x), x.shape, x.shape)
    name, shape, stored = x
    if stored[order[summed]] != shape[order[summed]]:
        name, stored = graph.whole(x), shape
    if tuple(order) != tuple(range(len(order))):
        name = graph.node("Transpose", name, perm=tuple(map(int, order)))
    return Value(name, tuple(shape[i] for i in order), tuple(stored[i] for i in order))


def _arranged(graph: Graph, x: Known, order: Sequence[int], shape: Sequence[Any]) -> Known:
    """Axes in another order, then in another shape; of weights, here and now."""
    if isinstance(x, np.ndarray):
        return x.transpose(order).reshape(shape)
    name = graph.whole(x)
    if tuple(order) != tuple(range(len(order))):
        name = graph.node("Transpose", name, perm=tuple(map(int, order)))
    name = _reshaped(graph, name, [x.shape[i] for i in order], shape)
    return Value(name, tuple(shape), tuple(shape))


def _scan(graph: Graph, equation: Any, *inputs: Known) -> list[Known]:
    options = equation.params
    constants, carried = options["num_consts"], options["num_carry"]
    inner = Graph(graph.sizes, graph)
    of_step = [x.aval for x in options["jaxpr"].jaxpr.invars[constants:]]
    given = [Value(inner.name(), tuple(x.shape), tuple(x.shape)) for x in of_step]
    found = run(inner, options["jaxpr"], [*inputs[:constants], *given])
    # A body's results are nodes of its own, even those that it only hands on.
    names = [inner.name() for _ in found]
    for name, x in zip(names, found, strict=True):
        inner.nodes.append(helper.make_node("Identity", [inner.whole(x)], [name]))
    body = helper.make_graph(
        inner.nodes, graph.name(),
        [typed(x.name, aval) for x, aval in zip(given, of_step, strict=True)],
        [typed(n, x) for n, x in zip(names, options["jaxpr"].out_avals, strict=True)],
    )  # fmt: skip
    along = len(given) - carried, len(found) - carried
    results = [graph.name() for _ in found]
    graph.nodes.append(
        helper.make_node(
            "Scan", [graph.whole(x) for x in inputs[constants:]], results, body=body,
            num_scan_inputs=along[0], scan_input_directions=[int(options["reverse"])] * along[0],
            scan_output_directions=[int(options["reverse"])] * along[1],
        )
    )  # fmt: skip
    shapes = [tuple(x.aval.shape) for x in equation.outvars]
    return [Value(name, shape, shape) for name, shape in zip(results, shapes, strict=True)]


def typed(name: str, aval: Any) -> onnx.ValueInfoProto:
    """How an input or output of a graph is described; a size that is open has a name."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(aval.dtype))
    sizes = [size if isinstance(size, int) else str(size) for size in aval.shape]
    return helper.make_tensor_value_info(name, kind, sizes)


def _open_size(graph: Graph, equation: Any) -> list[Known]:
    return _as_is(graph.scalar(equation.params["dim"], _dtype(equation)), equation)


_INTEGERS = np.iinfo(np.int32)
_OPERATIONS: dict[str, Callable[..., list[Known]]] = {
    "abs": _named("Abs"),
    "add": _named("Add"),
    "and": _named("And"),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "convert_element_type": _each(
        lambda graph, equation, x: graph.cast(x, equation.params["new_dtype"])
    ),
    "copy": _same,
    "cos": _named("Cos"),
    "cummax": _cumulative("ReduceMax", _INTEGERS.min),
    "cummin": _cumulative("ReduceMin", _INTEGERS.max),
    "cumsum": _sum_so_far,
    "dim_as_value": _open_size,
    "div": _named("Div"),
    "dot_general": _product,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "eq": _named("Equal"),
    "erf": _named("Erf"),
    "erfc": _each(_rest_of_erf),
    "exp": _named("Exp"),
    "gather": _gather,
    "ge": _named("GreaterOrEqual"),
    "gt": _named("Greater"),
    "integer_pow": _each(_power),
    "iota": _iota,
    "is_finite": _each(_finite),
    "le": _named("LessOrEqual"),
    "log": _named("Log"),
    "logistic": _named("Sigmoid"),
    "lt": _named("Less"),
    "max": _named("Max"),
    "min": _named("Min"),
    "mul": _named("Mul"),
    "ne": _each(lambda graph, _, x, y: graph.node("Not", graph.node("Equal", x, y))),
    "neg": _named("Neg"),
    "not": _named("Not"),
    "or": _named("Or"),
    "pad": _pad,
    "reduce_max": _reduce("ReduceMax"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "rev": _reverse,
    "scan": _scan,
    "select_n": _each(_select),
    "sin": _named("Sin"),
    "slice": _slice,
    "split": _split,
    "sqrt": _named("Sqrt"),
    "square": _each(lambda graph, _, x: graph.node("Mul", x, x)),
    "squeeze": _squeeze,
    "stack": _stack,
    "stop_gradient": _same,
    "sub": _named("Sub"),
    "tanh": _named("Tanh"),
    "transpose": _transpose,
}
