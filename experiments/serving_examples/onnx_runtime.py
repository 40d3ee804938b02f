"""Runs an ONNX export in onnxruntime alone: python onnx_runtime.py FILE.onnx EXAMPLE.npz"""

import sys

import numpy as np
import onnxruntime

NAMES = ("text", "audio", "visual", "present", "speaker", "segment")

session = onnxruntime.InferenceSession(sys.argv[1])
example = np.load(sys.argv[2])
(probability,) = session.run(["probability"], {name: example[name] for name in NAMES})
for row in probability.reshape(-1, probability.shape[-1]):
    print(*(f"{p:.4f}" for p in row))
