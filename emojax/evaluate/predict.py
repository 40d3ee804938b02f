"""What a model says of conversations: probabilities, and which modality said so."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
from emojax.evaluate.contradiction import contradiction
from emojax.models.redifu_authors import RedifuAuthors
from emojax.nn.sharding import sharded
from emojax.types import MODALITIES, Batch, Conversation, Prediction

TEXT = MODALITIES.index("text")


class Found(NamedTuple):
    """What was found of a batch; see `make_predict`.

    Attributes:
      log_probability: f32[B, L, C].
      contribution: f32[B, L, M]; zeros where nobody asked for an explanation.
      weights: f32[B, L, M] of a model that has them, else None.
      words: f32[B, L, C], log probability given an utterance's words alone; None where nobody asked
        for an explanation, and of a model that reads no words.
    """

    log_probability: Any
    contribution: Any
    weights: Any = None
    words: Any = None

    def at(self, row: int, columns: slice) -> Found:
        """That of some columns of a row, on the host."""
        return jax.tree.map(lambda x: np.asarray(x)[row, columns], self)


Predict = Callable[[Any, Batch], Found]


@functools.lru_cache(maxsize=8)  # compiled once for all runs of a study that share a model
def make_predict(model: nn.Module, *, explain: bool = True, mesh: Mesh | None = None) -> Predict:
    """The jitted (variables, batch) -> `Found`.

    The contribution of a modality is measured, not read off the weights: hide it from the whole
    conversation and see by how much the log probability of the decision falls. What the words say
    is measured likewise, by showing them alone, each utterance a conversation of its own. Without
    `explain` neither costs anything. With a mesh each device computes its share of the batch, and
    every device gets the whole result.
    """
    reads = "text" in getattr(getattr(model, "config", None), "modalities", MODALITIES)
    apart = (_by_rows if isinstance(model, RedifuAuthors) else _by_segments) if reads else None

    def predict(variables: Any, batch: Batch) -> Found:
        with sharded(None if mesh is None else placement(mesh)):
            return whole_batch(variables, batch)

    def whole_batch(variables: Any, batch: Batch) -> Found:
        def look(batch: Batch) -> tuple[Array, Array | None]:
            output: Any = model.apply(variables, batch)
            return jax.nn.log_softmax(output.logits), output.weights

        whole, weights = look(batch)
        if not explain:
            return Found(whole, jnp.zeros((*whole.shape[:2], len(MODALITIES))), weights)
        decision = jax.nn.one_hot(whole.argmax(-1), whole.shape[-1])
        only = jnp.eye(len(MODALITIES), dtype=bool)
        text = dataclasses.replace(batch, present=batch.present & only[TEXT])
        views = [dataclasses.replace(batch, present=batch.present & ~hidden) for hidden in only]
        if apart is _by_segments:
            views.append(_by_segments(text))
        # One look at a time in a loop: memory and compilation of one more pass, not of four.
        fields = "present", "segment", "position"
        varied = {name: jnp.stack([getattr(view, name) for view in views]) for name in fields}
        seen = jax.lax.map(lambda these: look(dataclasses.replace(batch, **these))[0], varied)
        falls = ((whole - seen[: len(MODALITIES)]) * decision).sum(-1)
        words = seen[-1] if apart is _by_segments else None
        if apart is _by_rows:
            words = look(_by_rows(text))[0].reshape(whole.shape)
        return Found(whole, jnp.moveaxis(falls, 0, -1), weights, words)

    result = None if mesh is None else replicated(mesh)
    return jax.jit(predict, out_shardings=result, compiler_options=compiler_options())


def _by_segments(batch: Batch) -> Batch:
    """The same rows, every utterance a conversation of its own."""
    column = jnp.arange(1, batch.segment.shape[1] + 1, dtype=batch.segment.dtype)
    return dataclasses.replace(
        batch,
        segment=jnp.where(batch.segment > 0, column, 0),
        position=jnp.zeros_like(batch.position),
    )


def _by_rows(batch: Batch) -> Batch:
    """Every utterance in a row of its own, [B L, 1], for the published model, to which a whole row
    is one conversation."""
    rows: Batch = jax.tree.map(
        lambda x: x.reshape(-1, 1, *x.shape[2:]), dataclasses.replace(batch, extent=None)
    )
    return _by_segments(rows)


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
        found |= predictions_of(packed, batches, jax.device_get(predict(variables, batch)))
        if advance is not None:
            advance(sum(map(len, packed.rows)))
    return [found[index] for index in sorted(found)]


def predictions_of(packed: PackedBatch, batches: Batches, found: Found) -> dict[int, Prediction]:
    """What was found of a batch, on the host, by the conversations' places in their split."""
    return {
        index: prediction_of(batches.records[index], found.at(row, columns))
        for index, row, columns in packed.members()
    }


def prediction_of(conversation: Conversation, found: Found) -> Prediction:
    """What was found of one conversation, whose L utterances are the first axis, on the host."""
    probability = _distribution(found.log_probability)
    contradicted = None
    if found.words is not None:
        heard = conversation.present[:, TEXT]
        said = contradiction(_distribution(found.words), probability)
        contradicted = np.where(heard, said, np.nan).astype(np.float32)
    return Prediction(
        id=conversation.id,
        probability=probability,
        contribution=found.contribution,
        present=conversation.present,
        speaker=conversation.speaker,
        label=conversation.label,
        transcript=conversation.transcript,
        weights=found.weights,
        contradiction=contradicted,
    )


def _distribution(log_probability: np.ndarray) -> np.ndarray:
    """Rows that sum to 1 in double precision."""
    probability = np.exp(log_probability.astype(np.float64))
    return probability / probability.sum(-1, keepdims=True)
