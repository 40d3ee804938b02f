"""What `emojax export --format onnx` wrote, in an ONNX runtime alone.

    python with_onnx.py EXPORTED EXPORTED/example.npz

Needs onnxruntime and numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from show import show

MODALITIES = ("text", "audio", "visual")


class Model:
    """Called like `emojax.load(path)`."""

    def __init__(self, folder: Path):
        known = json.loads((folder / "labels.json").read_text())
        self.labels, self._widths = tuple(known["labels"]), known["widths"]
        self._session = onnxruntime.InferenceSession(folder / "model.onnx")

    def predict(self, conversation: dict) -> np.ndarray:
        """Probability f32[L, C]; text, audio, visual f32[L, D] or None, speaker i32[L]."""
        speaker = np.asarray(conversation["speaker"], np.int32)
        length = len(speaker)
        present = np.ones((length, len(MODALITIES)), bool)
        if conversation.get("present") is not None:
            present &= np.asarray(conversation["present"], bool)
        inputs = {}
        for i, name in enumerate(MODALITIES):
            given = conversation.get(name)
            if given is None:
                present[:, i], given = False, np.zeros((length, self._widths[name]))
            inputs[name] = np.where(present[:, i, None], given, 0).astype(np.float32)[None]
        inputs |= {
            "present": present[None], "speaker": speaker[None],
            "segment": np.ones((1, length), np.int32),
        }  # fmt: skip
        return self._session.run(["probability"], inputs)[0][0]


def load(path: str) -> Model:
    return Model(Path(path))


if __name__ == "__main__":
    path, example = sys.argv[1:]
    show(load(path), example)
