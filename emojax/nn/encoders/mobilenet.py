"""MobileNetV2 (arXiv:1801.04381): frames of a face to features.

N is a number of frames, in any order: a frame's output depends on that frame alone, as batch norms
use stored statistics, in training too. Those lie in the collection `statistics`; their scale and
bias are parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from emojax.config.checks import require
from emojax.ops.depthwise import Padding, depthwise_convolution, same_padding

STEM = 32
WIDTHS = (16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320)
"""Channels behind the stem and behind each of the 16 blocks (Table 2 of the paper)."""
STRIDES = (2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
LAST = 1280


@dataclasses.dataclass(frozen=True)
class MobileNetConfig:
    """Sizes of a MobileNetV2; the defaults are the paper's.

    Attributes:
      multiplier: of all numbers of channels, which are then rounded to multiples of `divisor`.
      smallest: fewest channels of a layer.
      expansion: by which a block widens its input.
      whole_output: the last layer has 1280 channels even if the multiplier is below 1.
      padding: "same" puts the odd zero of a stride behind the image, as TensorFlow and the weights
        on the Hugging Face hub do; "centred" one zero on each side, as torchvision does.
      epsilon: of the batch norms; 1e-3 goes with "same", 1e-5 with "centred".

    Raises:
      ConfigError: a size that is not positive.
    """

    multiplier: float = 1.0
    divisor: int = 8
    smallest: int = 8
    expansion: float = 6.0
    whole_output: bool = True
    padding: str = "same"
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("multiplier", "divisor", "smallest", "expansion", "epsilon"):
            value = getattr(self, name)
            require(0 < value < 1e4, f"mobilenet.{name}", f"must be positive, not {value}")
        known = self.padding in ("same", "centred")
        require(known, "mobilenet.padding", f'is "same" or "centred", not {self.padding!r}')

    def channels(self, count: int, multiplier: float | None = None) -> int:
        """A number of channels, multiplied and rounded, by no more than a tenth down."""
        wanted = round(count * (self.multiplier if multiplier is None else multiplier))
        whole = int(wanted + self.divisor / 2) // self.divisor * self.divisor
        found = max(self.smallest, whole)
        return found + self.divisor if found < 0.9 * wanted else found

    @property
    def width(self) -> int:
        """D of the features."""
        whole = self.whole_output and self.multiplier < 1
        return LAST if whole else self.channels(LAST)


class MobileNet(nn.Module):
    """Frames to the last feature map; `pooled` makes a vector of it."""

    config: MobileNetConfig = MobileNetConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Float[Array, "N rows columns 3"]) -> Float[Array, "N R C D"]:
        """Of RGB in [-1, 1] (that of the usual weights), of any size of at least 32 pixels."""
        c = self.config
        x = self.convolve(frames.astype(self.dtype), c.channels(STEM), "stem", taps=3, stride=2)
        x = self.depthwise(x, "stem_depthwise", stride=1)
        widths = [c.channels(width) for width in WIDTHS]
        x = self.convolve(x, widths[0], "stem_reduce", act=False)
        for block, (stride, width) in enumerate(zip(STRIDES, widths[1:], strict=True)):
            before = x
            wide = c.channels(x.shape[-1], c.expansion)
            x = self.convolve(x, wide, f"block_{block}_expand")
            x = self.depthwise(x, f"block_{block}_depthwise", stride=stride)
            x = self.convolve(x, width, f"block_{block}_reduce", act=False)
            if stride == 1 and before.shape[-1] == width:
                x = x + before
        return self.convolve(x, c.width, "last")

    def convolve(
        self,
        x: Array,
        features: int,
        name: str,
        *,
        taps: int = 1,
        stride: int = 1,
        act: bool = True,
    ) -> Array:  # fmt: skip
        shape = (taps, taps, x.shape[-1], features)
        kernel, bias = Normalised(shape, self.config.epsilon, name=name)()
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        if taps == 1:
            x = jnp.einsum("nrcd,de->nrce", x, kernel[0, 0])
        else:
            pads = self.pads(x, taps, stride)
            x = lax.conv_general_dilated(
                x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return jax.nn.relu6(x + bias) if act else x + bias

    def depthwise(self, x: Array, name: str, *, stride: int) -> Array:
        shape = (3, 3, x.shape[-1])
        kernel, bias = Normalised(shape, self.config.epsilon, name=name)()
        kernel, bias = kernel.astype(self.dtype), bias.astype(self.dtype)
        x = depthwise_convolution(x, kernel, stride, self.pads(x, 3, stride))
        return jax.nn.relu6(x + bias)

    def pads(self, x: Array, taps: int, stride: int) -> Padding:
        if self.config.padding == "centred":
            return ((taps // 2, taps // 2),) * 2
        return same_padding((x.shape[1], x.shape[2]), taps, stride)


class Normalised(nn.Module):
    """A convolution's kernel and bias that hold the batch norm behind it, folded in.

    The same sums as normalising the result, and one pass over images less.
    """

    shape: tuple[int, ...]
    epsilon: float

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        width = self.shape[-1:]
        init = nn.initializers.variance_scaling(
            2.0, "fan_in", "truncated_normal", in_axis=range(len(self.shape) - 1), out_axis=-1
        )
        kernel = self.param("kernel", init, self.shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, width, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, width, jnp.float32)
        mean = self.variable("statistics", "mean", jnp.zeros, width, jnp.float32).value
        variance = self.variable("statistics", "variance", jnp.ones, width, jnp.float32).value
        gain = scale * lax.rsqrt(variance + self.epsilon)
        return kernel * gain, bias - mean * gain


def pooled(features: Float[Array, "N R C D"]) -> Float[Array, "N D"]:
    """Means over the places of each frame."""
    return features.mean((1, 2))
