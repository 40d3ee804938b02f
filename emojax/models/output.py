"""What every model returns."""

from __future__ import annotations

from flax import struct
from jax import Array


@struct.dataclass
class Output:
    """Scores of every utterance of a batch; rows of padding hold finite numbers of no meaning.

    Attributes:
      logits: f32[B, L, C], the decision.
      modality_logits: f32[B, L, M, C], each modality stream's own decision.
      weights: f32[B, L, M], how much each modality counts where a model says so, 0 for what is
        missing; else None.
    """

    logits: Array
    modality_logits: Array
    weights: Array | None = None
