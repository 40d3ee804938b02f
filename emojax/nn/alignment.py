"""Streams that are out of step by utterances, brought together by what is learned of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.attention import DifferentialAttention
from emojax.nn.layers import Dropout, LayerNorm, dense
from emojax.nn.recurrent import Recurrent
from emojax.ops.random import Rate
from emojax.types import MODALITIES

HEADS = 4
"""Of attention; they divide the width."""


class Alignment(nn.Module):
    """Adds to audio and video what belongs to an utterance but stands at another.

    `memory`: an LSTM reads all streams side by side and holds what one of them said until the
    others come to it. `attention`: all streams together ask, and the stream itself answers from
    wherever in the conversation (cross-modal attention, arXiv:1906.00295). In causal mode both can
    wait for a stream that is early, and not for one that is late.
    """

    how: str
    causal: bool
    drop_rate: Rate
    dtype: Any

    @nn.compact
    def __call__(
        self, streams: Sequence[Float[Array, "B L D"]], segment: Int[Array, "B L"],
        position: Int[Array, "B L"],
    ) -> list[Float[Array, "B L D"]]:  # fmt: skip
        width = streams[0].shape[-1]
        together = [
            LayerNorm(name=f"{m}_norm")(x) for m, x in zip(MODALITIES, streams, strict=True)
        ]
        everything = jnp.concatenate(together, -1)
        if self.how == "memory":
            memory = Recurrent("lstm", width, self.causal, self.dtype, name="memory")
            everything = memory(everything, segment)
        asked = dense(width, self.dtype, "join")(everything)
        found = list(streams)
        for i, modality in enumerate(MODALITIES):
            if modality == "text":
                continue
            if self.how == "memory":
                more = dense(width, self.dtype, f"{modality}_out")(asked)
            else:
                attention = DifferentialAttention(
                    HEADS, "none", self.causal, 0.0, 0, self.dtype, name=f"{modality}_attention"
                )
                more = attention(asked, segment, position, together[i])
            found[i] = streams[i] + Dropout(self.drop_rate)(more)
        return found
