"""ONNX Runtime Web: its package from npm, and a model run in it as a browser would."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emojax.errors import ConfigError, DataError
from emojax.serve.web_folder import unpack_runtime

TRIAL = Path(__file__).with_name("web_trial.mjs")


class WebModel:
    """A written ONNX model in ONNX Runtime Web: inputs by name to probability f32[B, L, C].

    It runs in Node.js, on the CPU and one thread, as the page's worker has it in a browser.

    Raises:
      ConfigError: Node.js is not installed.
      DataError: on a call, if the runtime does not take the model or the arrays; says why.
    """

    def __init__(self, path: Path):
        node = shutil.which("node")
        if node is None:
            raise ConfigError("a model is tried in ONNX Runtime Web with Node.js, which is missing")
        self._path, self._folder = path, tempfile.TemporaryDirectory()
        runtime = Path(self._folder.name)
        unpack_runtime(runtime)
        self._errors = (runtime / "errors").open("w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [node, TRIAL, runtime, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True,
        )  # fmt: skip
        self.close = weakref.finalize(self, _end, self._process, self._errors, self._folder)

    def __call__(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        told = {
            name: {"type": str(x.dtype), "dims": x.shape, "data": _text(x)}
            for name, x in arrays.items()
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            found = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:  # it has ended
            self._errors.seek(0)
            lines = [line for line in self._errors.read().splitlines() if "Error" in line]
            reason = lines[-1].strip() if lines else "it ended without a word"
            raise DataError(f"ONNX Runtime Web: {reason}", file=self._path) from error
        data = base64.b64decode(found["data"])
        return np.frombuffer(data, np.float32).reshape(found["dims"])


def _text(x: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(x).tobytes()).decode()


def _end(process: subprocess.Popen[str], errors, folder) -> None:
    process.communicate()  # its input ends, and so does it
    errors.close()
    folder.cleanup()
