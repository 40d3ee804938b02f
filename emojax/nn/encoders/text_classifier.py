"""A text encoder with a decision on top: what is fine-tuned."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.encoders.bert import BertConfig, BertEncoder, mean_over
from emojax.nn.layers import Dropout, dense


class TextClassifier(nn.Module):
    """The mean of an utterance's own word pieces, read in their context, to logits."""

    config: BertConfig
    classes: int
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "N T"],
        start: Int[Array, " N"],
        stop: Int[Array, " N"],
        length: Int[Array, " N"],
    ) -> Float[Array, "N C"]:
        """Args: word pieces; where the utterance's own start and stop; how many there are."""
        place = jnp.arange(tokens.shape[1])
        encoder = BertEncoder(self.config, self.dropout, self.dtype, name="encoder")
        states = encoder(tokens, place < length[:, None])
        features = mean_over(states[-1:], (place >= start[:, None]) & (place < stop[:, None]))
        return dense(self.classes, jnp.float32, "head")(Dropout(self.dropout)(features))
