"""What a model says of conversations: probabilities, and which modality said so."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from emojax.data.pipeline import Batches, PackedBatch
from emojax.dist.compiler import compiler_options
from emojax.dist.mesh import put_batch
from emojax.dist.rules import placement, replicated
from emojax.nn.sharding import sharded
from emojax.types import MODALITIES, Batch, Prediction

Predict = Callable[[Any, Batch], tuple[Array, Array, Array | None]]


@functools.lru_cache(maxsize=8)  # compiled once for all runs of a study that share a model
def make_predict(model: nn.Module, *, explain: bool = True, mesh: Mesh | None = None) -> Predict:
    """The jitted (variables, batch) -> (log probability f32[B, L, C], contribution f32[B, L, M],
    weights f32[B, L, M] of a model that has them, else None).

    The contribution of a modality is measured, not read off the weights: hide it from the whole
    conversation and see by how much the log probability of the decision falls. Without `explain`
    contributions are zeros and cost nothing. With a mesh each device computes its share of the
    batch, and every device gets the whole result.
    """

    def predict(variables: Any, batch: Batch) -> tuple[Array, Array, Array | None]:
        with sharded(None if mesh is None else placement(mesh)):
            return whole_batch(variables, batch)

    def whole_batch(variables: Any, batch: Batch) -> tuple[Array, Array, Array | None]:
        def look(present: Array) -> tuple[Array, Array | None]:
            output: Any = model.apply(variables, dataclasses.replace(batch, present=present))
            return jax.nn.log_softmax(output.logits), output.weights

        whole, weights = look(batch.present)
        if not explain:
            return whole, jnp.zeros((*whole.shape[:2], len(MODALITIES))), weights
        decision = jax.nn.one_hot(whole.argmax(-1), whole.shape[-1])
        others = ~jnp.eye(len(MODALITIES), dtype=bool)
        # One modality at a time in a loop: memory for one more pass, not for three.
        hidden = jax.lax.map(lambda keep: look(batch.present & keep)[0], others)
        falls = ((whole - hidden) * decision).sum(-1)
        return whole, jnp.moveaxis(falls, 0, -1), weights

    result = None if mesh is None else replicated(mesh)
    return jax.jit(predict, out_shardings=result, compiler_options=compiler_options())


def predict_split(
    predict: Predict,
    variables: Any,
    batches: Batches,
    advance: Callable[[int], None] | None = None,
    mesh: Mesh | None = None,
) -> list[Prediction]:
    """Predictions for every conversation of a split, in the order of its records.

    Args:
      predict: made for the same mesh.
      advance: told after each batch how many conversations it held.
    """
    found: dict[int, Prediction] = {}
    for packed in batches.one_epoch():
        batch = put_batch(packed.batch, packed.held, len(packed.rows), mesh)
        found |= predictions_of(packed, batches, *jax.device_get(predict(variables, batch)))
        if advance is not None:
            advance(sum(map(len, packed.rows)))
    return [found[index] for index in sorted(found)]


def predictions_of(
    packed: PackedBatch,
    batches: Batches,
    log_probability: np.ndarray,
    contribution: np.ndarray,
    weights: np.ndarray | None,
) -> dict[int, Prediction]:
    """What `make_predict` found of a batch, by the conversations' places in their split."""
    found = {}
    for index, row, columns in packed.members():
        conversation = batches.records[index]
        probability = np.exp(log_probability[row, columns].astype(np.float64))
        found[index] = Prediction(
            id=conversation.id,
            probability=probability / probability.sum(-1, keepdims=True),
            contribution=contribution[row, columns],
            present=conversation.present,
            speaker=conversation.speaker,
            label=conversation.label,
            transcript=conversation.transcript,
            weights=None if weights is None else weights[row, columns],
        )
    return found
