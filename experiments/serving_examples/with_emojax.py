"""A trained model in three lines: a run, a folder or a file of weights, and a conversation.

    python with_emojax.py runs/demo exported/example.npz

The twins with_torch.py and with_onnx.py load what `emojax export` wrote, need no emojax, and are
called the same way.
"""

import sys

import numpy as np

import emojax


def main(path: str, example: str) -> None:
    with np.load(example) as arrays:
        conversation = {
            name: arrays[name][0] for name in ("text", "audio", "visual", "present", "speaker")
        }
        expected = arrays["probability"][0]
    model = emojax.load(path)
    probability = model.predict(conversation)
    print(f"largest difference {np.abs(probability - expected).max():.1e}")
    for row in probability:
        print(f"{model.labels[row.argmax()]:12s} {row.max():.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
