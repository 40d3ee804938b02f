"""Whole models as StableHLO: one program for CPU, CUDA and TPU, for batches of any size.

Whoever runs it needs JAX and flatbuffers, and nothing of emojax.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax import Array, export

from emojax.files import write_atomically
from emojax.interop.serving import input_shapes, serve
from emojax.ops.target import for_any_device
from emojax.types import Signature

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(
    model: Any, variables: Mapping[str, Any], signature: Signature, path: str | os.PathLike[str]
) -> Path:
    """Writes what `serving.serve` returns, its weights included, as a single file.

    It has plain operations instead of a device's own kernels, and products in full precision: left
    to themselves, GPUs and TPUs round fp32 factors to 10 and 7 bits (on an H100 probabilities were
    1e-3 off). JAX reads programs of the last half year, whichever version wrote them.
    """
    shapes = input_shapes(signature, *export.symbolic_shape("batch, length"))
    with for_any_device(), jax.default_matmul_precision("highest"):
        program = export.export(jax.jit(serve(model, variables)), platforms=PLATFORMS)(*shapes)
    return write_atomically(Path(path), bytes(program.serialize()))


def load_stablehlo(path: str | os.PathLike[str]) -> Callable[..., tuple[Array, Array]]:
    """The function of a file, compiled for each shape it is called with."""
    return jax.jit(export.deserialize(bytearray(Path(path).read_bytes())).call)
