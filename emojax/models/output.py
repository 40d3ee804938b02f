"""What every model returns."""

from __future__ import annotations

from flax import struct
from jax import Array


@struct.dataclass
class Space:
    """Where the modalities of every utterance lie in a space that they share.

    Attributes:
      embedding: f32[B, L, M, E], of unit length.
      present: bool[B, L, M], which of them stand for something.
      scale: f32[], what a product of two is multiplied by: one over the temperature.
      supervised: whether utterances of one label belong together.
    """

    embedding: Array
    present: Array
    scale: Array
    supervised: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class Output:
    """Scores of every utterance of a batch; rows of padding hold finite numbers of no meaning.

    Attributes:
      logits: f32[B, L, C], the decision.
      modality_logits: f32[B, L, M, C], each modality stream's own decision.
      weights: f32[B, L, M], how much each modality counts where a model says so, 0 for what is
        missing; else None.
      space: of a model that is trained by contrast; else None.
    """

    logits: Array
    modality_logits: Array
    weights: Array | None = None
    space: Space | None = None
