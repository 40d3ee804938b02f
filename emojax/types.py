"""What flows through emojax: a conversation on the host, a batch on the device, a prediction.

The letters of shapes, used in every docstring and einsum:

  B  rows of a batch                 L  utterances of a row (or of one conversation)
  D  model width                     H  attention heads
  C  emotion classes                 S  speakers of a corpus
  M  modalities (3)                  D_m  feature width of modality m
  W  relation window                 K  diffusion steps

Arrays on the host are numpy, on the device jax; both share these types.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import struct

MODALITIES = ("text", "audio", "visual")
"""The modalities in the order of every axis M."""

UNLABELLED = -1
"""Label of an utterance whose emotion nobody told: it is predicted but never scored."""


@dataclasses.dataclass(frozen=True, eq=False)
class Conversation:
    """One conversation as it was read: numpy arrays over its L utterances, in order.

    Attributes:
      id: name of the conversation, unique in its corpus.
      text, audio, visual: f32[L, D_m] features.
      present: bool[L, M]; False where a modality of an utterance is missing.
      speaker: i32[L] index into the corpus's speakers.
      label: i32[L] index into the corpus's labels, or `UNLABELLED`.
      transcript: the L utterances' words, "" where unknown.
    """

    id: str
    text: np.ndarray
    audio: np.ndarray
    visual: np.ndarray
    present: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    transcript: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a model must know of a corpus: the sizes of its arrays and the names behind them.

    Attributes:
      name: the corpus.
      labels: emotion names; C of them.
      speakers: speaker names; S of them.
      widths: D_m of text, audio and visual.
      frames: how many frames of an utterance stand one after the other in the features of each
        modality, as wide as each other; 1 where features are of the utterance as a whole.
    """

    name: str
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    widths: tuple[int, int, int]
    frames: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Signature:
        """From JSON; what was written before there were frames has none.

        Raises:
          KeyError, TypeError: something is missing or of another type.
        """
        labels, speakers, widths = (tuple(values[k]) for k in ("labels", "speakers", "widths"))
        return cls(values["name"], labels, speakers, widths, tuple(values.get("frames", (1, 1, 1))))


@struct.dataclass
class Batch:
    """Rows of packed conversations, what every model reads.

    Attributes:
      text, audio, visual: f32[B, L, D_m].
      present: bool[B, L, M].
      speaker: i32[B, L].
      segment: i32[B, L]; 0 is padding, 1, 2, ... the conversations that share a row.
      position: i32[B, L]; place of the utterance in its conversation, from 0.
      label: i32[B, L]; `UNLABELLED` where there is nothing to score.
      capacity: upper bound of the number of real utterances, known when compiling; None is B L.
        Models may skip what lies beyond it.
      extent: i32[B]; columns of the row that the published model takes for its padded length, the
        rest being there for the shape alone; None is L.
    """

    text: Any
    audio: Any
    visual: Any
    present: Any
    speaker: Any
    segment: Any
    position: Any
    label: Any
    extent: Any = None
    capacity: int | None = struct.field(pytree_node=False, default=None)


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one conversation of L utterances, beside what is known of it.

    Attributes:
      id: name of the conversation.
      probability: f32[L, C]; rows sum to 1.
      contribution: f32[L, M]; by how much the log probability of the decision falls when a
        modality of the conversation is hidden. A modality that argues against is negative.
      present, speaker, label, transcript: as in `Conversation`.
      weights: f32[L, M]; how much each modality counts, where the model itself says so, else None.
      contradiction: f32[L] in [0, 1]; how far the words alone are from what the utterance was taken
        for (`evaluate.contradiction`), NaN where there are no words. None where that was not
        measured, or the model reads no words.
    """

    id: str
    probability: np.ndarray
    contribution: np.ndarray
    present: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    transcript: tuple[str, ...]
    weights: np.ndarray | None = None
    contradiction: np.ndarray | None = None
