"""A model as one function from raw features to probabilities, as other runtimes want it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from emojax.models.redifu_authors import RedifuAuthors
from emojax.ops.masks import spans
from emojax.types import MODALITIES, UNLABELLED, Batch, Signature

INPUTS = (*MODALITIES, "present", "speaker", "segment")
OUTPUTS = ("probability", "modality_probability")


def serve(model: nn.Module, variables: Mapping[str, Any]) -> Callable[..., tuple[Array, Array]]:
    """A pure function of `INPUTS`, arrays by position, to `OUTPUTS`:

      text, audio, visual: f32[B, L, D_m], as read: they are normalised within.
      present: bool[B, L, M].
      speaker: i32[B, L].
      segment: i32[B, L]; 0 is padding, 1, 2, ... the conversations that share a row.

      probability: f32[B, L, C].
      modality_probability: f32[B, L, M, C], each modality's own.

    `redifu_authors` wants one conversation in each row, from column 0 on. As published it looks at
    the padding, up to the longest of the batch, so what it says of one depends on the others.
    """

    def probabilities(
        text: Array, audio: Array, visual: Array, present: Array, speaker: Array, segment: Array
    ) -> tuple[Array, Array]:
        start, _, _ = spans(segment)
        column = jnp.broadcast_to(jnp.arange(segment.shape[1], dtype=jnp.int32), segment.shape)
        real, extent = segment > 0, None
        if isinstance(model, RedifuAuthors):
            longest = real.sum(1, dtype=jnp.int32).max()
            extent = jnp.broadcast_to(longest, segment.shape[:1])
        batch = Batch(
            text, audio, visual, present=present, speaker=speaker, segment=segment,
            position=jnp.where(real, column - start, 0),
            label=jnp.full_like(segment, UNLABELLED), extent=extent,
        )  # fmt: skip
        output: Any = model.apply(variables, batch)
        return jax.nn.softmax(output.logits), jax.nn.softmax(output.modality_logits)

    return probabilities


def input_shapes(signature: Signature, rows: Any, length: Any) -> list[jax.ShapeDtypeStruct]:
    """Shapes of `INPUTS`; sizes may be symbols of `jax.export`."""
    shape = (rows, length)
    return [
        *(jax.ShapeDtypeStruct((*shape, width), jnp.float32) for width in signature.widths),
        jax.ShapeDtypeStruct((*shape, len(MODALITIES)), jnp.bool_),
        jax.ShapeDtypeStruct(shape, jnp.int32),
        jax.ShapeDtypeStruct(shape, jnp.int32),
    ]
