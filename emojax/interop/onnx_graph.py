"""An ONNX graph in the making, in which sizes may stay open.

Nothing is computed twice, and what a loop computes alike in every turn is computed before it.
"""

from __future__ import annotations

import ast
import collections
import itertools
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper

from emojax.interop.onnx_rules import Made, shorter

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
        self.makers: dict[str, Made] = {}
        self.arrays: dict[str, np.ndarray] = outer.arrays if outer else {}

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
            made = Made(operation, inputs, options)
            if (name := shorter(self, made)) is not None:
                self.made[same] = [name]
                return [name]
            self.made[same] = [self.name() for _ in range(results)]
            self.makers |= dict.fromkeys(self.made[same], made)
            self.nodes.append(helper.make_node(operation, inputs, self.made[same], **options))
        return self.made[same]

    def made_by(self, name: str) -> Made | None:
        """What an array is the result of; None for inputs, constants and results of loops."""
        found = self.makers.get(name)
        return self.outer.made_by(name) if found is None and self.outer else found

    def known(self, name: str) -> np.ndarray | None:
        """What a constant is."""
        return self.arrays.get(name)

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
            self.arrays[self.made[same][0]] = array
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
        """i64[1] of a size; a symbolic one is written as JAX does, such as (L + 15) // 16 - 1."""

        def part(tree: Any) -> str:
            if isinstance(tree, ast.Name):
                name, axis = self.sizes[tree.id]
                return self.node("Shape", name, start=axis, end=axis + 1)
            if isinstance(tree, ast.BinOp) and type(tree.op) in _BETWEEN:
                return self.node(_BETWEEN[type(tree.op)], part(tree.left), part(tree.right))
            if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
                return self.node("Sub", part(ast.Constant(0)), part(tree.operand))
            if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
                whole, by = map(part, tree.args)
                left = self.node("Mod", whole, by)
                if tree.func.id == "mod":
                    return left
                if tree.func.id == "floordiv":
                    # Division alone would round negative numbers up.
                    return self.node("Div", self.node("Sub", whole, left), by)
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


def shorten(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[onnx.TensorProto], keep: Iterable[str]
) -> None:
    """Give everything the shortest names, but for those that are to be kept, in place."""
    uses = collections.Counter(name for part in _parts(nodes) for name in _names(part))
    letters = string.ascii_letters + string.digits
    names = (
        "".join(each)
        for length in itertools.count()
        for each in itertools.product(string.ascii_letters, *[letters] * length)
    )
    kept = {"", *keep}
    free = (name for name in names if name not in kept)
    new = {name: next(free) for name, _ in uses.most_common() if name not in kept}
    for part in _parts(nodes):
        for fields in (part.input, part.output):
            if isinstance(part, onnx.NodeProto):
                fields[:] = [new.get(name, name) for name in fields]
            else:
                for field in fields:
                    field.name = new.get(field.name, field.name)
    for constant in constants:
        constant.name = new.get(constant.name, constant.name)


def _parts(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    """Nodes and bodies of loops, at any depth."""
    for node in nodes:
        yield node
        for option in node.attribute:
            if option.HasField("g"):
                yield option.g
                yield from _parts(option.g.node)


def _names(part: Any) -> list[str]:
    """What a node or the body of a loop takes and gives."""
    fields = (*part.input, *part.output)
    return [each if isinstance(each, str) else each.name for each in fields]
