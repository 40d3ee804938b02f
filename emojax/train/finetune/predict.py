"""What a text classifier says of the utterances of a split."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np
from jax import Array

from emojax.dist.compiler import compiler_options
from emojax.train.finetune.examples import Examples, TextBatch
from emojax.train.finetune.optimiser import together
from emojax.train.finetune.step import Program

LARGER = 4
"""Batches of training that one of evaluation is as large as."""


def make_predict(program: Program) -> jax.stages.Wrapped:
    """The jitted (trained, frozen, batch) -> f32[N, C] log probabilities, without dropout.

    Of equal programs it is the same function, so that each length is compiled once.
    """
    return _predict(program.alike())


@functools.lru_cache(maxsize=8)
def _predict(program: Program) -> jax.stages.Wrapped:
    model = program.model(training=False)

    def predict(trained: Any, frozen: Any, batch: TextBatch) -> Array:
        params = together(trained, frozen, program.text)
        given = (batch.tokens, batch.start, batch.stop, batch.length)
        logits: Any = model.apply({"params": params}, *given)
        return jax.nn.log_softmax(logits)

    return jax.jit(predict, compiler_options=compiler_options())


def log_probabilities(
    predict: Any, trained: Any, frozen: Any, examples: Examples, lengths: tuple[int, ...],
    batch: int,
) -> np.ndarray:  # fmt: skip
    """f32[E, C] of the utterances of a split.

    Args:
      predict: see `make_predict`.
      lengths: of batches, in word pieces.
      batch: utterances of a step of training.
    """
    size = LARGER * batch
    parts = examples.plan(lengths, size, None)
    # All are under way before the first is asked for.
    found = [predict(trained, frozen, jax.device_put(examples.batch(part, size))) for part in parts]
    result = np.zeros((len(examples.label), found[0].shape[-1]), np.float32)
    for part, values in zip(parts, found, strict=True):
        result[part.rows] = np.asarray(values)[: len(part.rows)]
    return result
