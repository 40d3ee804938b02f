"""An ONNX graph in the making, in which sizes may stay open.

Nothing is computed twice, and what a loop computes alike in every turn is computed before it.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

OPSET = 18
"""The first in which all reductions take their axes alike; runtimes of 2023 read it."""

_BETWEEN = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}


class Value(NamedTuple):
    """A named array of the graph.

    Attributes:
      shape: what it is in the program; sizes are integers or symbols of `jax.export`.
      stored: what it is in the graph: 1 where it would repeat, as runtimes do that themselves.
    """

    name: str
    shape: tuple[Any, ...]
    stored: tuple[Any, ...]


Known = Value | np.ndarray
"""What is known of an array: where it is, or for a constant what it is."""


class Graph:
    """Nodes in the making.

    Args:
      sizes: by the name of a symbol, an input that has it and the axis.
      outer: the graph around the body of a loop.
    """

    def __init__(self, sizes: dict[str, tuple[str, int]], outer: Graph | None = None):
        self.sizes, self.outer = sizes, outer
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = outer.constants if outer else []
        self.numbers: Iterator[int] = outer.numbers if outer else itertools.count()
        self.own: set[str] = set()
        self.made: dict[Any, list[str]] = {}

    def name(self) -> str:
        """A new name that belongs to this graph."""
        name = f"v{next(self.numbers)}"
        self.own.add(name)
        return name

    def several(self, operation: str, *inputs: str, results: int = 1, **options: Any) -> list[str]:
        """Names of the results of an operation."""
        if self.outer and not any(name in self.own for name in inputs):
            return self.outer.several(operation, *inputs, results=results, **options)
        same = (operation, inputs, repr(options))
        if same not in self.made:
            self.made[same] = [self.name() for _ in range(results)]
            self.nodes.append(helper.make_node(operation, inputs, self.made[same], **options))
        return self.made[same]

    def node(self, operation: str, *inputs: str, **options: Any) -> str:
        """Name of the only result of an operation."""
        return self.several(operation, *inputs, **options)[0]

    def constant(self, array: Any, dtype: Any = None) -> str:
        if self.outer:
            return self.outer.constant(array, dtype)
        array = np.asarray(array, dtype)
        same = (str(array.dtype), array.shape, array.tobytes())
        if same not in self.made:
            self.made[same] = [self.name()]
            array = np.ascontiguousarray(array).reshape(array.shape)
            self.constants.append(onnx.numpy_helper.from_array(array, self.made[same][0]))
        return self.made[same][0]

    def value(self, x: Known) -> Value:
        if isinstance(x, Value):
            return x
        return Value(self.constant(x), x.shape, x.shape)

    def whole(self, x: Known) -> str:
        """The array with its repetitions, for operations that do not repeat by themselves."""
        name, shape, stored = self.value(x)
        return name if shape == stored else self.node("Expand", name, self.vector(shape))

    def vector(self, sizes: Sequence[Any]) -> str:
        """i64[N] of N sizes."""
        if all(isinstance(size, int | np.integer) for size in sizes):
            return self.constant(sizes, np.int64)
        return self.node("Concat", *map(self.size, sizes), axis=0)

    def size(self, size: Any) -> str:
        """i64[1] of a size; a symbolic one is written as a sum of products, such as L - 1."""

        def part(tree: Any) -> str:
            if isinstance(tree, ast.Name):
                name, axis = self.sizes[tree.id]
                return self.node("Shape", name, start=axis, end=axis + 1)
            if isinstance(tree, ast.BinOp) and type(tree.op) in _BETWEEN:
                return self.node(_BETWEEN[type(tree.op)], part(tree.left), part(tree.right))
            return self.constant([ast.literal_eval(tree)], np.int64)

        return part(ast.parse(str(size), mode="eval").body)

    def scalar(self, size: Any, dtype: Any) -> str:
        """A size as a number without axes."""
        number = self.node("Squeeze", self.size(size), self.constant([0], np.int64))
        return self.cast(number, dtype)

    def cast(self, name: str, dtype: Any) -> str:
        return self.node("Cast", name, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def needed(self, outputs: Sequence[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """Nodes and constants without those that no output depends on."""
        names, nodes = set(outputs), []
        for node in reversed(self.nodes):
            if names.intersection(node.output):
                nodes.append(node)
                bodies = [part for option in node.attribute for part in option.g.node]
                names.update(name for part in (node, *bodies) for name in part.input)
        return nodes[::-1], [x for x in self.constants if x.name in names]
