"""VGG-16 (arXiv:1409.1556), whose layout VGG-Face (Parkhi et al., BMVC 2015) shares.

N is a number of frames, in any order; a frame's output depends on that frame alone.
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

DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of each stage; a stage ends by halving the image."""


@dataclasses.dataclass(frozen=True)
class VggConfig:
    """Sizes of a VGG-16; the defaults are the paper's.

    Attributes:
      widths: channels of each stage.
      hidden: D, outputs of each of the two hidden layers.
      size: rows and columns of a frame, a multiple of 32.

    Raises:
      ConfigError: a size that is not positive or does not divide.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    size: int = 224

    def __post_init__(self) -> None:
        whole = len(self.widths) == len(DEPTHS) and all(width > 0 for width in self.widths)
        require(whole, "vgg.widths", f"needs {len(DEPTHS)} positive numbers, not {self.widths}")
        require(self.hidden > 0, "vgg.hidden", f"must be positive, not {self.hidden}")
        divides = self.size > 0 and self.size % (1 << len(DEPTHS)) == 0
        require(divides, "vgg.size", f"must be a multiple of {1 << len(DEPTHS)}, not {self.size}")

    @property
    def places(self) -> int:
        """Rows and columns of the last feature map."""
        return self.size >> len(DEPTHS)


class Vgg(nn.Module):
    """Frames to the second hidden layer behind its ReLU, which VGG-Face's users call fc7."""

    config: VggConfig = VggConfig()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, frames: Float[Array, "N rows columns 3"]) -> Float[Array, "N D"]:
        """Of colours as the weights expect them: VGG-Face's are BGR of 0 to 255 less their means.

        Raises:
          ConfigError: frames of another size.
        """
        c = self.config
        found = frames.shape[1:3]
        require(found == (c.size, c.size), "vgg.size", f"is {c.size}, and frames are {found}")
        x = frames.astype(self.dtype)
        for stage, (depth, width) in enumerate(zip(DEPTHS, c.widths, strict=True), start=1):
            for place in range(1, depth + 1):
                x = nn.Conv(width, (3, 3), dtype=self.dtype, name=f"conv{stage}_{place}")(x)
                x = jax.nn.relu(x)
            x = _halved(x)
        x = x.reshape(len(x), -1)
        for name in ("fc6", "fc7"):
            x = jax.nn.relu(nn.Dense(c.hidden, dtype=self.dtype, name=name)(x))
        return x


def _halved(x: Array) -> Array:
    """The largest of each two by two places."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
