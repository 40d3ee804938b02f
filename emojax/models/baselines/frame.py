"""What the baselines have in common around their fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.models.multimodal import Multimodal
from emojax.models.output import Output
from emojax.nn.fusion import Hidden
from emojax.nn.layers import dense
from emojax.types import MODALITIES


class Baseline(Multimodal):
    """Streams in, a decision and one of each modality out."""

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.config.dtype)

    def head(self, x: Float[Array, "B L F"], name: str) -> Float[Array, "B L C"]:
        return dense(len(self.signature.labels), jnp.float32, name)(x)

    def decisions(self, streams: Sequence[Float[Array, "B L D"]]) -> Float[Array, "B L M C"]:
        """Each modality's own."""
        heads = [self.head(x, f"{m}_head") for m, x in zip(MODALITIES, streams, strict=True)]
        return jnp.stack(heads, axis=2)

    def output(self, x: Float[Array, "B L F"], streams: Sequence[Float[Array, "B L D"]]) -> Output:
        """What is said by x, and by each modality's stream."""
        return Output(logits=self.head(x, "head"), modality_logits=self.decisions(streams))

    def each(self, streams: Sequence[Float[Array, "B L D"]], layers: int) -> list[Array]:
        """A perceptron for each modality."""
        c = self.config
        return [
            Hidden(layers, c.width, c.dropout, self.dtype, name=f"{m}_hidden")(x)
            for m, x in zip(MODALITIES, streams, strict=True)
        ]

    def together(
        self, streams: Sequence[Float[Array, "B L D"]], layers: int
    ) -> Float[Array, "B L D"]:
        """A perceptron of all modalities side by side."""
        hidden = Hidden(layers, self.config.width, self.config.dropout, self.dtype, name="hidden")
        return hidden(jnp.concatenate(list(streams), -1))
