"""Encoders of raw signals under a fusion model, one network from the sound wave's spectrum on.

A batch's features are signals laid out flat, so that packing, shuffling and hiding modalities are
those of any other corpus. U = B L utterances, T frames of sound, F mel bands, A views of them,
P measures of prosody, K pictures, V words, D features of each modality.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from emojax.config import ModelConfig
from emojax.models.output import Output
from emojax.models.registry import build
from emojax.nn.encoders.audio import AudioConfig, AudioEncoder, ConvolutionBlock
from emojax.nn.encoders.bert import BertConfig, BertEncoder, mean_over
from emojax.nn.encoders.frames import FrameEncoder
from emojax.nn.layers import Dropout
from emojax.types import MODALITIES, Batch, Signature


@dataclasses.dataclass(frozen=True)
class Shapes:
    """How signals lie in a batch's features.

    Attributes:
      words: V; text is their numbers, 0 being padding.
      vocabulary: how many numbers there are.
      mel: T, F and A; audio is the number of real frames, then mel, then `prosody` (P) of each.
      pictures: K, rows and columns; visual is grey in [-1, 1].
    """

    words: int
    vocabulary: int
    mel: tuple[int, int, int]
    prosody: int
    pictures: tuple[int, int, int]

    @property
    def widths(self) -> tuple[int, int, int]:
        sound = 1 + math.prod(self.mel) + self.mel[0] * self.prosody
        return self.words, sound, math.prod(self.pictures)


SOUND = AudioConfig(
    channels=(8, 16, 32), norm="layer", recurrent=24, features=32, prosody_step=3, heads=2
)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the encoders.

    Attributes:
      features: D.
      audio: of log-mel's and prosody's, whose `features` are D / 2 each.
      face: channels of the convolutions over a picture, each of which halves it.
      dropout: of words' and pictures' features.
    """

    features: int = 64
    audio: AudioConfig = SOUND
    face: tuple[int, ...] = (8, 16, 32)
    dropout: float = 0.2


class PictureEncoder(nn.Module):
    """Pictures to a row of features each by convolutions, then `FrameEncoder` over them.

    Where a feature is says whether it is of brows or of a mouth, so places are not averaged.
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, pictures: Array, present: Array) -> Array:
        """f32[U, D] of f32[U, K, rows, columns, 1] and bool[U, K]."""
        x = jnp.where(present[..., None, None, None], pictures, 0)
        x = x.reshape(-1, *pictures.shape[2:])
        for depth, channels in enumerate(self.sizes.face):
            rows = jnp.ones(x.shape[:2], bool)
            block = ConvolutionBlock(
                channels, 3, (2, 2), "layer", jnp.float32, name=f"block_{depth}"
            )
            x, _ = block(x, rows)
        x = Dropout(self.sizes.dropout)(x.reshape(*present.shape, -1))
        return FrameEncoder(self.sizes.features, name="frames")(x, present)


class EndToEnd(nn.Module):
    """Raw signals to decisions; modalities that the fusion model may not use have no encoder."""

    fusion: Any
    signature: Signature
    shapes: Shapes
    sizes: Sizes

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        allowed = self.fusion.config.modalities
        encoders = {"text": self.read, "audio": self.hear, "visual": self.see}
        features = {}
        for i, modality in enumerate(MODALITIES):
            there = batch.present[:, :, i].reshape(-1)
            x = jnp.zeros((len(there), self.sizes.features))
            if modality in allowed:
                flat = getattr(batch, modality).reshape(len(there), -1)
                x = encoders[modality](flat, there)
            features[modality] = x.reshape(*batch.segment.shape, -1)
        return self.fusion(dataclasses.replace(batch, **features))

    def read(self, x: Array, there: Array) -> Array:
        """Words of random embeddings through one Transformer layer, then their mean."""
        s = self.sizes
        config = BertConfig(
            vocabulary=self.shapes.vocabulary, width=s.features, layers=1, heads=2,
            feed_forward=2 * s.features, positions=self.shapes.words, kinds=1, epsilon=1e-6,
        )  # fmt: skip
        words = jnp.where(there[:, None], x, 0).astype(jnp.int32)
        states = BertEncoder(config, s.dropout, name="text_encoder")(words, words > 0)
        return mean_over(states[-1:], words > 0)

    def hear(self, x: Array, there: Array) -> Array:
        """Log-mel's and prosody's features side by side."""
        mel, frames = self.shapes.mel, self.shapes.mel[0]
        x = jnp.where(there[:, None], x, 0)
        end = 1 + math.prod(mel)
        found = AudioEncoder(self.sizes.audio, name="audio_encoder")(
            x[:, 1:end].reshape(-1, *mel), x[:, end:].reshape(len(x), frames, -1),
            x[:, 0].astype(jnp.int32),
        )  # fmt: skip
        return jnp.concatenate(found, -1)

    def see(self, x: Array, there: Array) -> Array:
        pictures = x.reshape(-1, *self.shapes.pictures, 1)
        present = jnp.broadcast_to(there[:, None], pictures.shape[:2])
        return PictureEncoder(self.sizes, name="face_encoder")(pictures, present)


def network(config: ModelConfig, signature: Signature, shapes: Shapes, sizes: Sizes) -> EndToEnd:
    """The fusion model that `config` describes on encoders of the signals of `shapes`."""
    encoded = dataclasses.replace(signature, widths=(sizes.features,) * 3)
    return EndToEnd(build(config, encoded), signature, shapes, sizes)
