"""Encoders of speech: convolutions over log-mel, a recurrent network over prosody, and pooling.

N utterances, T frames, F mel bands, A views of each (log-mel itself, its changes, ...), P measures
of prosody, D features; t, f and E are frames, bands and features within a network. `count: i32[N]`
says how many frames of each utterance there are; what lies beyond has no influence on anything.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config.swept import off
from emojax.nn.layers import Dropout, LayerNorm, dense, gelu
from emojax.nn.recurrent import Recurrent
from emojax.ops.audio.frames import within
from emojax.ops.random import Rate

MOMENTUM = 0.98
"""Of the running statistics: the share kept from batch to batch."""


@dataclasses.dataclass(frozen=True)
class AudioConfig:
    """Sizes of an audio encoder.

    Attributes:
      channels: of each block of convolutions over log-mel; each halves bands, and frames while
        there are more than `frame_step` blocks before it.
      time_blocks: how many of the blocks, from the first, halve the frames too.
      norm: of the convolutions' outputs: over the batch (and, without the `dropout` stream, by the
        running statistics that training left in `batch_stats`), or over channels place by place.
      taps: frames and bands that a convolution sees.
      cell, recurrent: kind and features of the network over prosody; half for each direction.
      prosody_step: frames of prosody that one step of it reads.
      features: D of each of the two.
      heads: attention heads of the pooling.
      dropout: share of features dropped while training.
      functionals: factor on mean and deviation of what the networks hear; 0 leaves them out.
      dtype: that products are computed in.
    """

    channels: tuple[int, ...] = (24, 48, 96, 128)
    time_blocks: int = 2
    norm: Literal["batch", "layer"] = "batch"
    taps: int = 3
    cell: Literal["lstm", "gru"] = "gru"
    recurrent: int = 64
    prosody_step: int = 3
    features: int = 128
    heads: int = 4
    dropout: Rate = 0.2
    functionals: float | Array = 1.0
    dtype: Any = jnp.float32


class ConvolutionBlock(nn.Module):
    """Convolution in time and frequency, a norm, GELU.

    As one product of patches and a kernel: many runs of it side by side are one batched product,
    where convolutions with a kernel each would be computed group by group.
    """

    features: int
    taps: int
    step: tuple[int, int]
    """Frames and bands from one place to the next."""
    norm: Literal["batch", "layer"]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T F D"], real: Bool[Array, "N T"]
    ) -> tuple[Float[Array, "N t f E"], Bool[Array, "N t"]]:
        x = jnp.where(real[..., None, None], x, 0)
        patches = jnp.concatenate(_patches(x, self.taps, self.step), -1)
        x = dense(self.features, self.dtype, "kernel")(patches)
        real = real[:, :: self.step[0]]
        if self.norm == "layer":
            x = LayerNorm(name="norm")(x)
        else:
            norm = nn.BatchNorm(
                use_running_average=not self.has_rng("dropout"), momentum=MOMENTUM,
                dtype=self.dtype, name="norm",
            )  # fmt: skip
            x = norm(x, mask=real[..., None, None])
        return gelu(x, approximate=True), real


def _patches(x: Array, taps: int, step: tuple[int, int]) -> list[Array]:
    half = taps // 2
    count = [-(-size // each) for size, each in zip(x.shape[1:3], step, strict=True)]
    x = jnp.pad(x, ((0, 0), (half, half), (half, half), (0, 0)))
    return [
        x[:, i : i + (count[0] - 1) * step[0] + 1 : step[0],
             j : j + (count[1] - 1) * step[1] + 1 : step[1]]
        for i in range(taps)
        for j in range(taps)
    ]  # fmt: skip


class SpectralCnn(nn.Module):
    """Log-mel and what goes with it, standardised, to a row of features for every few frames."""

    config: AudioConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T F A"], count: Int[Array, " N"]
    ) -> tuple[Float[Array, "N t E"], Bool[Array, "N t"]]:
        c = self.config
        real = within(count, x.shape[1])
        for depth, channels in enumerate(c.channels):
            step = (2 if depth < c.time_blocks else 1, 2)
            block = ConvolutionBlock(
                channels, c.taps, step, c.norm, c.dtype, name=f"block_{depth}"
            )  # fmt: skip
            x, real = block(x, real)
            x = Dropout(c.dropout)(x) if depth else x
        return x.reshape(*x.shape[:2], -1), real


class ProsodyRnn(nn.Module):
    """A recurrent network from both ends over prosody, a step for every few frames."""

    config: AudioConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T P"], count: Int[Array, " N"]
    ) -> tuple[Float[Array, "N t E"], Bool[Array, "N t"]]:
        c = self.config
        x = jnp.where(within(count, x.shape[1])[..., None], x, 0)
        spare = -x.shape[1] % c.prosody_step
        x = jnp.pad(x, ((0, 0), (0, spare), (0, 0)))
        x = x.reshape(len(x), -1, c.prosody_step * x.shape[-1])
        real = within(-(-count // c.prosody_step), x.shape[1])
        x = gelu(LayerNorm(name="norm")(dense(c.recurrent, c.dtype, "enter")(x)))
        # Padding is a conversation of its own to the network: it begins anew on either side of it.
        walk = Recurrent(c.cell, c.recurrent, False, c.dtype, name="walk")
        return walk(Dropout(c.dropout)(x), real.astype(jnp.int32)), real


class AttentiveStatistics(nn.Module):
    """Mean and deviation over frames, weighed by attention (arXiv:1803.10963), to D features.

    Beside them mean and deviation of what the network heard, each frame counting alike: what is
    known of an utterance without any network, so that this need not be learned.
    An utterance of no frames has no mean: its features are those of zeros.
    """

    config: AudioConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "N t E"],
        real: Bool[Array, "N t"],
        heard: Float[Array, "N T A"],
        count: Int[Array, " N"],
    ) -> Float[Array, "N D"]:
        c = self.config
        x = dense(c.features, c.dtype, "enter")(x)
        x = gelu(LayerNorm(name="norm")(x), approximate=True).astype(jnp.float32)
        score = jnp.where(real[..., None], dense(c.heads, jnp.float32, "score")(x), -jnp.inf)
        # A row of padding alone gets weights of 0, not of 0 / 0.
        top = jax.lax.stop_gradient(jnp.maximum(score.max(1, keepdims=True), -1e30))
        weight = jnp.exp(score - top)
        learned = _moments(x, weight / jnp.maximum(weight.sum(1, keepdims=True), 1e-30))
        if off(c.functionals):
            return dense(c.features, c.dtype, "leave")(learned)
        alike = within(count, heard.shape[1])[..., None] / jnp.maximum(count, 1)[:, None, None]
        plain = Dropout(c.dropout)(_moments(heard.astype(jnp.float32), alike))
        plain = c.functionals * gelu(dense(c.features, c.dtype, "plain")(plain), approximate=True)
        return dense(c.features, c.dtype, "leave")(jnp.concatenate([learned, plain], -1))


def _moments(x: Float[Array, "N t E"], weight: Float[Array, "N t H"]) -> Float[Array, "N M"]:
    """Weighted mean and deviation over t, each of H parts of E under weights of its own."""
    parts = x.reshape(*x.shape[:2], weight.shape[-1], -1)
    # 0 times what is beyond the end would be no 0 if that is not finite.
    parts = jnp.where(weight[..., None] > 0, parts, 0)
    mean = jnp.einsum("nth,nthe->nhe", weight, parts)
    square = jnp.einsum("nth,nthe->nhe", weight, jnp.square(parts - mean[:, None]))
    return jnp.concatenate([mean, jnp.sqrt(square + 1e-6)], -1).reshape(len(x), -1)


class AudioEncoder(nn.Module):
    """Log-mel through convolutions and prosody through recurrence, each pooled."""

    config: AudioConfig

    @nn.compact
    def __call__(
        self,
        mel: Float[Array, "N T F A"],
        prosody: Float[Array, "N T P"],
        count: Int[Array, " N"],
    ) -> tuple[Float[Array, "N D"], Float[Array, "N D"]]:
        c = self.config
        bands = mel.reshape(*mel.shape[:2], -1)
        found, real = SpectralCnn(c, name="spectral")(mel, count)
        spectral = AttentiveStatistics(c, name="spectral_pool")(found, real, bands, count)
        found, real = ProsodyRnn(c, name="prosody")(prosody, count)
        melodic = AttentiveStatistics(c, name="prosody_pool")(found, real, prosody, count)
        return spectral, melodic
