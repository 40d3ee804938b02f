"""Whole models as ONNX: one file from raw features to probabilities, for batches of any size."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.config import to_dict
from emojax.files import write_atomically
from emojax.interop.serving import INPUTS, OUTPUTS, input_shapes, serve
from emojax.ops.target import for_any_device
from emojax.types import Signature

AXES = ("batch", "length")
IR_VERSION = 8
"""Of the file format; the oldest that has our operations, so that older runtimes read it too."""
ERRORS = 3
"""What a runtime speaks up for; not for each of its optimisations that does not apply."""
THREADS = 2
"""Of a runtime: conversations are short, and more of them wait for each other."""


def to_onnx(
    model: Any, variables: Mapping[str, Any], signature: Signature, path: str | os.PathLike[str]
) -> Path:
    """Writes a model, its weights and normalisation included, as a single file.

    Inputs and outputs are those of `serving.serve` by name, all sizes of B and L are served, and it
    computes in fp32 whatever dtype the model was trained in. The file's metadata hold the labels,
    speakers, feature widths and the model's config, each as JSON.

    Raises:
      NotImplementedError: the model needs an operation that `onnx_operations` does not tell.
      DataError: the file cannot be written.
    """
    from onnx import helper

    model = model.clone(config=dataclasses.replace(model.config, dtype="float32"))
    shapes = input_shapes(signature, *jax.export.symbolic_shape(", ".join(AXES)))
    with for_any_device():
        program = jax.make_jaxpr(serve(model, variables))(*shapes)
    content = convert(program, INPUTS, OUTPUTS, model.config.name)
    about = {
        "labels": signature.labels, "speakers": signature.speakers, "widths": signature.widths,
        "frames": signature.frames, "config": to_dict(model.config),
    }  # fmt: skip
    helper.set_model_props(content, {name: json.dumps(value) for name, value in about.items()})
    return write_atomically(Path(path), content.SerializeToString())


def convert(program: Any, inputs: Sequence[str], outputs: Sequence[str], name: str) -> Any:
    """The ONNX model of a traced program.

    Args:
      program: of `jax.make_jaxpr`. Where a size is a symbol, it is one of an input's axes.
      inputs, outputs: names.
    """
    from onnx import helper

    from emojax.interop.onnx_graph import OPSET, Graph, Value, shorten
    from emojax.interop.onnx_operations import run, typed

    shapes = {key: tuple(x.shape) for key, x in zip(inputs, program.in_avals, strict=True)}
    sizes = {str(size): (key, i) for key, shape in shapes.items() for i, size in enumerate(shape)}
    graph = Graph(sizes)
    found = run(graph, program, [Value(key, shape, shape) for key, shape in shapes.items()])
    for key, x in zip(outputs, found, strict=True):
        graph.nodes.append(helper.make_node("Identity", [graph.whole(x)], [key]))
    nodes, constants = graph.needed(outputs)
    shorten(nodes, constants, (*inputs, *outputs))
    return helper.make_model(
        helper.make_graph(
            nodes, name, list(map(typed, inputs, program.in_avals)),
            list(map(typed, outputs, program.out_avals)), constants,
        ),
        producer_name="emojax", ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )  # fmt: skip


class OnnxModel:
    """A written model in its runtime, called as what `serving.serve` returns.

    Attributes:
      labels: the names of the C emotions.
    """

    def __init__(self, path: str | os.PathLike[str]):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = THREADS, ERRORS
        # int8 weights become floats as the file is loaded, not at every call.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        about = self._session.get_modelmeta().custom_metadata_map
        self.labels = tuple(json.loads(about["labels"]))

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, np.ndarray]:
        given = map(np.asarray, arrays)
        probability, each = self._session.run(OUTPUTS, dict(zip(INPUTS, given, strict=True)))
        return probability, each
