"""A trained model in three lines: a run, a folder or a file of weights, and a conversation.

    python with_emojax.py runs/demo exported/example.npz

The twins with_torch.py and with_onnx.py load what `emojax export` wrote, need no emojax, and are
called the same way.
"""

import sys

from show import show

import emojax

if __name__ == "__main__":
    path, example = sys.argv[1:]
    show(emojax.load(path), example)
