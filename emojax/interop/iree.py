"""Whole models as IREE modules for CPUs, one for each length of a row, with neither JAX nor XLA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.errors import DataError
from emojax.files import write_atomically
from emojax.interop.serving import INPUTS, input_shapes, serve
from emojax.ops.target import for_any_device
from emojax.types import Signature

LENGTHS = (32, 128, 512)
"""Columns of a row: IREE wants shapes that are known, and a conversation goes to the shortest row
that holds it."""


def to_iree(
    model: Any, variables: Mapping[str, Any], signature: Signature, folder: Path,
    lengths: Sequence[int] = LENGTHS,
) -> list[Path]:  # fmt: skip
    """Writes `model_LENGTH.vmfb` for rows of each length, one row at a time.

    Each is what `serving.serve` returns, weights included, compiled for any CPU of this kind.
    """
    import iree.compiler

    written = []
    for length in lengths:
        with for_any_device():
            # Every input is one of the module, whether the model looks at it or not.
            function = jax.jit(serve(model, variables), keep_unused=True)
            lowered = function.lower(*input_shapes(signature, 1, length))
        content = iree.compiler.compile_str(
            str(lowered.compiler_ir("stablehlo")), input_type="stablehlo",
            target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=generic"],
        )  # fmt: skip
        written.append(write_atomically(folder / f"model_{length}.vmfb", content))
    return written


class IreeModel:
    """Written modules in their runtime, called as what `serving.serve` returns.

    Args:
      folder: as `to_iree` left it.
    """

    def __init__(self, folder: Path):
        import iree.runtime

        self._calls: dict[int, Callable[..., Any]] = {}
        for path in folder.glob("model_*.vmfb"):
            module = iree.runtime.load_vm_flatbuffer(path.read_bytes(), driver="local-task")
            self._calls[int(path.stem.removeprefix("model_"))] = module.main

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, np.ndarray]:
        """Any number of rows.

        Raises:
          DataError: rows are longer than the longest module's.
        """
        length = arrays[INPUTS.index("segment")].shape[1]
        fitting = [each for each in sorted(self._calls) if each >= length]
        if not fitting:
            raise DataError(f"rows of {length} columns; {max(self._calls)} is the most")
        call, spare = self._calls[fitting[0]], fitting[0] - length
        rows = []
        for row in zip(*arrays, strict=True):
            padded = [np.pad(x, ((0, spare), *((0, 0),) * (x.ndim - 1)))[None] for x in row]
            # Copies: the runtime takes its memory back with the next call.
            rows.append([np.array(x.to_host())[:, :length] for x in call(*padded)])
        probability, each = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        return probability, each
