"""Pretrained vision encoders from a file: MobileNetV2 and VGG-16 (VGG-Face), ready for face crops.

The file is a state dict as safetensors or as `torch.save` wrote it, read without PyTorch and
without running anything in it. Whose it is, is told by its names:

  Hugging Face  MobileNetV2Model, whole or inside another model
  torchvision   mobilenet_v2 and vgg16
  VGG-Face      conv1_1 ... conv5_3, fc6, fc7 (or conv_1_1 ...), colours BGR
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open

from emojax.errors import DataError
from emojax.interop.torch_checkpoint import read_torch_checkpoint
from emojax.interop.vision_names import Names, hugging_face, torchvision, vgg_names
from emojax.nn.encoders.mobilenet import STEM, STRIDES, WIDTHS, MobileNet, MobileNetConfig, pooled
from emojax.nn.encoders.vgg import DEPTHS, Vgg, VggConfig

SIZE = 96
"""Rows and columns of the crops that a MobileNetV2 gets if nobody says otherwise."""
_BATCH = 16
_AGAIN = "Give a MobileNetV2 of Hugging Face or torchvision, or a VGG-16 of torchvision or VGG-Face"


class Colours(NamedTuple):
    """Mean and deviation of red, green and blue in [0, 1], and whether blue comes first."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    blue_first: bool = False


_HALF = Colours((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_VGG_FACE = Colours(
    (129.1863 / 255, 104.7624 / 255, 93.5940 / 255), (1 / 255, 1 / 255, 1 / 255), blue_first=True
)


@dataclasses.dataclass(frozen=True, eq=False)
class VisionEncoder:
    """An encoder read from its file.

    Attributes:
      name: the model, and whose layout the file has.
      fingerprint: sha256 of the file.
      size: rows and columns of the crops it takes.
      width: D of the features: MobileNetV2's pooled last map, VGG's fc7.
      colours: how those of its training were scaled.
    """

    name: str
    fingerprint: str
    size: int
    width: int
    module: nn.Module
    variables: Mapping[str, Any]
    colours: Colours

    def encode(self, crops: np.ndarray) -> np.ndarray:
        """f32[N, D] of u8[N, size, size, 3] crops in RGB."""
        features = np.zeros((len(crops), self.width), np.float32)
        for start in range(0, len(crops), _BATCH):
            some = crops[start : start + _BATCH]
            batch = np.zeros((_BATCH, *crops.shape[1:]), np.uint8)  # one shape, one compilation
            batch[: len(some)] = some
            features[start : start + len(some)] = self._encode(self.variables, batch)[: len(some)]
        return features

    @functools.cached_property
    def _encode(self) -> Callable[[Any, np.ndarray], Any]:
        mean, deviation = np.array(self.colours[:2], np.float32)

        @jax.jit
        def encode(variables: Any, crops: Any) -> Any:
            x = (crops.astype(jnp.float32) / 255 - mean) / deviation
            x = x[..., ::-1] if self.colours.blue_first else x
            found: Any = self.module.apply(variables, x)
            return pooled(found) if found.ndim == 4 else found

        return encode


def read_vision_encoder(path: Path, size: int | None = None) -> VisionEncoder:
    """Reads weights and recognises whose they are.

    Args:
      size: rows and columns of the crops for a MobileNetV2, which takes any of at least 32; None
        is 96. A VGG-16 has its own.

    Raises:
      DataError: the file cannot be read, holds no such model, or tensors that are missing, not
        finite or of another shape.
    """
    tensors = _read(path)
    tensors = {name.removeprefix("mobilenet_v2."): value for name, value in tensors.items()}
    module: nn.Module
    if "conv_stem.first_conv.convolution.weight" in tensors:
        kind, names, colours = "mobilenet_v2 of Hugging Face", hugging_face(), _HALF
        module = _mobilenet(tensors, names, path, "same")
    elif "features.0.0.weight" in tensors:
        kind, names, colours = "mobilenet_v2 of torchvision", torchvision(), _IMAGENET
        module = _mobilenet(tensors, names, path, "centred")
    else:
        names = vgg_names(tensors)
        face = not names["fc6", "kernel"].startswith("classifier")
        kind, colours = ("VGG-Face", _VGG_FACE) if face else ("vgg16 of torchvision", _IMAGENET)
        module = _vgg(tensors, names, path)
    if isinstance(module, Vgg):
        if size not in (None, module.config.size):
            raise DataError(
                f"its crops have {module.config.size} rows", file=path, fix=f"Ask for no {size}"
            )
        size, width = module.config.size, module.config.hidden
    else:
        size, width = size or SIZE, module.config.width
    variables = _variables(tensors, names, module, size, path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return VisionEncoder(kind, digest, size, width, module, variables, colours)


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        if zipfile.is_zipfile(path):
            return read_torch_checkpoint(path)
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    # A type that numpy does not have raises KeyError or TypeError.
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"is neither safetensors nor a checkpoint of torch.save: {error}", file=path, fix=_AGAIN
        ) from error


def _shape(tensors: Mapping[str, np.ndarray], name: str, ndim: int, path: Path) -> tuple[int, ...]:
    if name not in tensors:
        raise DataError("the tensor is missing", file=path, field=name, fix=_AGAIN)
    shape = tensors[name].shape
    if len(shape) != ndim or 0 in shape:
        raise DataError(f"its shape is {shape}", file=path, field=name, fix=_AGAIN)
    return shape


def _mobilenet(
    tensors: Mapping[str, np.ndarray], names: Names, path: Path, padding: str
) -> MobileNet:
    """Of the multiplier that numbers of channels tell; it is not written anywhere."""
    modules = ["stem", "stem_reduce", *(f"block_{i}_reduce" for i in range(len(STRIDES))), "last"]
    found = [_shape(tensors, names[module, "kernel"], 4, path)[0] for module in modules]
    epsilon = 1e-3 if padding == "same" else 1e-5
    multipliers = (found[0] / STEM, *(hundredth / 100 for hundredth in range(10, 201)))
    for multiplier, whole in itertools.product(multipliers, (True, False)):
        config = MobileNetConfig(
            multiplier=multiplier, whole_output=whole, padding=padding, epsilon=epsilon
        )
        if [*map(config.channels, (STEM, *WIDTHS)), config.width] == found:
            return MobileNet(config)
    raise DataError(
        f"channels {found} are of no width multiplier", file=path, field=names["stem", "kernel"],
        fix=_AGAIN,
    )  # fmt: skip


def _vgg(tensors: dict[str, np.ndarray], names: Names, path: Path) -> Vgg:
    """Its first hidden layer then reads places before channels, as ours does."""

    def outputs(module: str, ndim: int) -> int:
        return _shape(tensors, names[module, "kernel"], ndim, path)[0]

    _shape(tensors, names["conv1_1", "kernel"], 4, path)  # named if there is nothing of a VGG
    widths = tuple(outputs(f"conv{stage}_{depth}", 4) for stage, depth in enumerate(DEPTHS, 1))
    name = names["fc6", "kernel"]
    hidden, inputs = _shape(tensors, name, 2, path)
    places = math.isqrt(inputs // widths[-1])
    if not places or places**2 * widths[-1] != inputs:
        raise DataError(
            f"{inputs} inputs are no square of {widths[-1]} channels", file=path, field=name,
            fix=_AGAIN,
        )  # fmt: skip
    apart = tensors[name].reshape(hidden, widths[-1], places, places)
    tensors[name] = apart.transpose(0, 2, 3, 1).reshape(hidden, inputs)
    return Vgg(VggConfig(widths, outputs("fc7", 2), places << len(DEPTHS)))


def _variables(
    tensors: Mapping[str, np.ndarray], names: Names, module: nn.Module, size: int, path: Path
) -> dict[str, Any]:
    shapes = jax.eval_shape(
        module.init, jax.random.key(0), np.zeros((1, size, size, 3), np.float32)
    )
    found = {}
    for key, wanted in flatten_dict(dict(shapes)).items():
        name = names[key[-2:]]
        if name not in tensors:
            raise DataError("the tensor is missing", file=path, field=name, fix=_AGAIN)
        value = _ours(tensors[name].astype(np.float32), wanted.shape)
        if value.shape != wanted.shape or not np.isfinite(value).all():
            raise DataError(
                f"shape {tensors[name].shape} or values do not fit: wanted are finite numbers, "
                f"{wanted.shape} here", file=path, field=name, fix=_AGAIN,
            )  # fmt: skip
        if key[-1] == "variance" and (value < 0).any():
            raise DataError("a variance is negative", file=path, field=name, fix=_AGAIN)
        found[key] = value
    return unflatten_dict(found)


def _ours(value: np.ndarray, wanted: tuple[int, ...]) -> np.ndarray:
    """A tensor with its axes as ours, outputs last; depthwise kernels have none of inputs."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
        return value[:, :, 0] if len(wanted) == 3 else value
    return value.T
