"""What `emojax export --format torch` wrote, in PyTorch alone.

    python with_torch.py EXPORTED EXPORTED/example.npz

Needs torch, safetensors and numpy.
"""

import json
import sys
from pathlib import Path

import numpy as np
from show import show


class Model:
    """Called like `emojax.load(path)`."""

    def __init__(self, folder: Path):
        sys.path.insert(0, str(folder))  # torch_redifu.py lies beside the weights
        import torch_redifu

        self.labels = tuple(json.loads((folder / "labels.json").read_text())["labels"])
        self._torch_redifu = torch_redifu
        self._module = torch_redifu.load(folder / "model.safetensors")

    def predict(self, conversation: dict) -> np.ndarray:
        """Probability f32[L, C]; text, audio, visual f32[L, D] or None, speaker i32[L]."""
        return self._torch_redifu.predict(self._module, conversation)


def load(path: str) -> Model:
    return Model(Path(path))


if __name__ == "__main__":
    path, example = sys.argv[1:]
    show(load(path), example)
