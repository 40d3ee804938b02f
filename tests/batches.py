"""Small random batches with every feature a batch can have: packing, padding, missing values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from emojax.nn.layers import identity_statistics
from emojax.types import MODALITIES, Batch, Conversation, Signature

SIGNATURE = Signature("tiny", ("happy", "sad", "angry", "neutral"), ("A", "B", "C"), (7, 5, 6))
FRAMED = dataclasses.replace(SIGNATURE, frames=(1, 5, 3))
"""The same features taken for frames: five of one number, three of two."""


def random_conversation(
    seed: int, length: int, *, signature: Signature = SIGNATURE, missing: float = 0.3
) -> Conversation:
    """A conversation of noise; at each utterance a modality is missing with that chance."""
    draw = np.random.default_rng(seed)
    features = {
        modality: draw.normal(size=(length, width)).astype(np.float32)
        for modality, width in zip(MODALITIES, signature.widths, strict=True)
    }
    return Conversation(
        id=f"c{seed}",
        present=draw.random((length, len(MODALITIES))) >= missing,
        speaker=draw.integers(len(signature.speakers), size=length).astype(np.int32),
        label=draw.integers(-1, len(signature.labels), size=length).astype(np.int32),
        transcript=tuple(f"utterance {i}" for i in range(length)),
        **features,
    )


def pack(rows: Sequence[Sequence[Conversation]], length: int) -> Batch:
    """A batch of the given rows, written column by column as the definition of a batch reads."""
    widths = (rows[0][0].text.shape[1], rows[0][0].audio.shape[1], rows[0][0].visual.shape[1])
    shape = (len(rows), length)
    arrays = {m: np.zeros((*shape, w), np.float32) for m, w in zip(MODALITIES, widths, strict=True)}
    arrays |= {name: np.zeros(shape, np.int32) for name in ("speaker", "segment", "position")}
    arrays["label"] = np.full(shape, -1, np.int32)
    arrays["present"] = np.zeros((*shape, len(MODALITIES)), bool)
    for b, row in enumerate(rows):
        column = 0
        for number, conversation in enumerate(row, start=1):
            for i in range(len(conversation)):
                for name in (*MODALITIES, "present", "speaker", "label"):
                    arrays[name][b, column] = getattr(conversation, name)[i]
                arrays["segment"][b, column] = number
                arrays["position"][b, column] = i
                column += 1
    return Batch(**{name: jnp.asarray(array) for name, array in arrays.items()})


def random_variables(module: nn.Module, batch: Batch, seed: int = 0) -> dict[str, Any]:
    """Variables of the shapes that `init` gives, without compiling it.

    Matrices are scaled by their first axis and every vector is away from its initial value, so
    that no parameter is without effect; statistics are the identity.
    """
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch)
    draw = np.random.default_rng(seed)

    def fill(shape: jax.ShapeDtypeStruct) -> jax.Array:
        noise = draw.normal(size=shape.shape)
        value = noise / np.sqrt(shape.shape[0]) if len(shape.shape) > 1 else 0.5 + 0.2 * noise
        return jnp.asarray(value, shape.dtype)

    return {
        "params": jax.tree.map(fill, shapes["params"]),
        "statistics": jax.tree.map(jnp.asarray, identity_statistics(SIGNATURE.widths)),
    }
