"""Runs a StableHLO export in JAX alone: python stablehlo_jax.py FILE.stablehlo EXAMPLE.npz"""

import sys

import jax.export
import numpy as np

NAMES = ("text", "audio", "visual", "present", "speaker", "segment")

program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))  # noqa: SIM115, PTH123
example = np.load(sys.argv[2])
probability, _ = program.call(*(example[name] for name in NAMES))
for row in np.asarray(probability).reshape(-1, probability.shape[-1]):
    print(*(f"{p:.4f}" for p in row))
