"""The weights of an ONNX file as int8, computed with as they were.

Numbers that flow through the model stay fp32. Were they quantised as well, in the range of each
batch, what is said of a conversation would depend on its batch mates and on its future.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from emojax.files import write_atomically

SMALLEST_MATRIX = 128
"""Numbers of the least matrix that pays for the operation that makes it fp32 again."""
SMALLEST_VECTOR = 64
OWN_SCALES = 128
"""Numbers that share a scale at the least: a scale is four bytes, so these are 3 % of them."""
HALF_ERROR = 2.0**-11
"""Of a half, relative to the number; of one that nothing is divided by, to a thousandth of the
vector's largest where that is more."""


def quantize_onnx(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> Path:
    """Writes the model with its weight matrices as int8, symmetric about 0, with a scale for each
    column where columns are long and else one for the matrix; long vectors become halves.

    Runtimes make fp32 of them, when the file is loaded or whenever it is run. How much accuracy it
    costs depends on the weights and is to be measured.

    Args:
      source, target: may be the same.
    """
    import onnx
    from onnx import helper, numpy_helper

    from emojax.interop.onnx_graph import shorten

    model = onnx.load(os.fspath(source))
    graph, constants, nodes = model.graph, [], []
    divisors = {node.input[1] for node in graph.node if node.op_type == "Div"}
    for tensor in graph.initializer:
        array, name = numpy_helper.to_array(tensor), tensor.name
        made: list[tuple[str, Any]] = [("", array)]
        if array.dtype == np.float32 and _is_matrix(array):
            whole, scale = quantised(array)
            axis: dict[str, Any] = {"axis": array.ndim - 1} if scale.ndim else {}
            made = [("_int8", whole), ("_scale", scale)]
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_int8", f"{name}_scale"],
                                          [name], **axis))  # fmt: skip
        elif array.dtype == np.float32 and _fits_halves(array, divides=name in divisors):
            made = [("_half", array.astype(np.float16))]
            nodes.append(
                helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT)
            )
        constants += [numpy_helper.from_array(x, name + suffix) for suffix, x in made]
    nodes += graph.node
    shorten(nodes, constants, [x.name for x in (*graph.input, *graph.output)])
    for field, content in ((graph.node, nodes), (graph.initializer, constants)):
        _replace(field, content)
    return write_atomically(Path(target), model.SerializeToString())


def quantised(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A matrix as (i8[..., D], f32[D] or f32[]): round(x / scale) and the scale."""
    columns = array.size >= OWN_SCALES * array.shape[-1]
    largest = np.abs(array).max(tuple(range(array.ndim - 1)) if columns else None)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.clip(np.rint(array / scale), -127, 127).astype(np.int8), scale


def _is_matrix(array: np.ndarray) -> bool:
    return array.size >= SMALLEST_MATRIX and sum(size > 1 for size in array.shape) > 1


def _fits_halves(array: np.ndarray, divides: bool) -> bool:
    if array.size < SMALLEST_VECTOR:
        return False
    with np.errstate(over="ignore"):
        half = array.astype(np.float16).astype(np.float32)
    size = np.abs(array)
    least = 0 if divides else size.max() / 1000
    return bool((np.abs(half - array) <= HALF_ERROR * np.maximum(size, least)).all())


def _replace(field: Any, content: Iterable[Any]) -> None:
    kept = list(content)
    del field[:]
    field.extend(kept)
