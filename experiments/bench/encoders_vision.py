"""Vision encoders beside transformers and PyTorch, on the same weights; see `bench.encoders`.

MobileNetV2 on crops of 96 x 96 and VGG-16 on 224 x 224, fp32, weights drawn by transformers and by
PyTorch and imported as a user's file is. Depthwise convolutions are also timed by themselves,
against XLA's grouped convolution. Features that are not PyTorch's to 1e-4 of the largest end it.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from emojax.interop.vision import VisionEncoder, read_vision_encoder
from emojax.nn.encoders.vgg import DEPTHS, VggConfig
from emojax.ops.depthwise import depthwise_convolution, same_padding
from experiments.bench.timing import in_turn, median

LAYERS = ((48, 32, 1), (24, 144, 1), (12, 192, 2), (6, 576, 1))
"""Rows, channels and stride of some of MobileNetV2's depthwise convolutions at 96 x 96."""


def mobilenet(folder: Path) -> tuple[VisionEncoder, Callable[[Any], Any]]:
    """Ours, and transformers' on frames whose channels come first."""
    import torch
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    model = MobileNetV2Model(MobileNetV2Config()).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # as drawn by transformers, nothing would be left at the end
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear").mul_(1.2)
    torch.save(model.state_dict(), folder / "mobilenet.pt")
    encoder = read_vision_encoder(folder / "mobilenet.pt")
    return encoder, lambda x: model(x).pooler_output


def vgg(folder: Path) -> tuple[VisionEncoder, Callable[[Any], Any]]:
    """Ours, and the same layers in PyTorch."""
    import torch

    torch.manual_seed(0)
    config, layers, channels = VggConfig(), [], 3
    for depth, width in zip(DEPTHS, config.widths, strict=True):
        for _ in range(depth):
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            channels = width
        layers.append(torch.nn.MaxPool2d(2))
    hidden = [
        torch.nn.Linear(channels * config.places**2, config.hidden), torch.nn.ReLU(),
        torch.nn.Identity(), torch.nn.Linear(config.hidden, config.hidden), torch.nn.ReLU(),
    ]  # fmt: skip
    model = torch.nn.ModuleDict(
        {"features": torch.nn.Sequential(*layers), "classifier": torch.nn.Sequential(*hidden)}
    ).eval()
    torch.save(model.state_dict(), folder / "vgg.pt")
    encoder = read_vision_encoder(folder / "vgg.pt")
    return encoder, lambda x: model["classifier"](model["features"](x).flatten(1))


def compare(
    what: str, encoder: VisionEncoder, theirs: Callable[[Any], Any], batch: int, rounds: int
) -> list[dict[str, Any]]:
    """Both on a batch of that many crops, features to the host included."""
    import torch

    size = encoder.size
    crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
    mean, deviation = (torch.from_numpy(np.float32(each)) for each in encoder.colours[:2])

    def in_torch(layout: torch.memory_format) -> np.ndarray:
        x = (torch.from_numpy(crops).float() / 255 - mean) / deviation
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        with torch.inference_mode():
            return theirs(x).numpy()

    found, wanted = encoder.encode(crops), in_torch(torch.contiguous_format)
    if abs(found - wanted).max() > 1e-4 * abs(wanted).max():
        raise AssertionError(f"{what}: features are not PyTorch's")
    programs = {
        "emojax": lambda: encoder.encode(crops),
        "torch": lambda: in_torch(torch.contiguous_format),
        "torch, channels last": lambda: in_torch(torch.channels_last),
    }
    return _rows(f"{what}, {batch} of {size} x {size}", programs, batch, rounds)


def depthwise(rounds: int, batch: int = 16) -> list[dict[str, Any]]:
    """Single depthwise convolutions, as shifted products and grouped."""
    rows = []
    for size, width, stride in LAYERS:
        draw = np.random.default_rng(0)
        x = jnp.asarray(draw.normal(size=(batch, size, size, width)), jnp.float32)
        kernel = jnp.asarray(draw.normal(size=(3, 3, width)), jnp.float32)
        pads = same_padding((size, size), 3, stride)

        def shifted(x, kernel, stride=stride, pads=pads):
            return depthwise_convolution(x, kernel, stride, pads)

        def grouped(x, kernel, stride=stride, width=width):
            return lax.conv_general_dilated(
                x, kernel[:, :, None], (stride, stride), "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=width,
            )  # fmt: skip

        programs = {"emojax": jax.jit(shifted), "XLA, grouped": jax.jit(grouped)}
        calls = {name: lambda f=f, x=x, kernel=kernel: f(x, kernel) for name, f in programs.items()}
        what = f"depthwise, {size} x {size} x {width}, stride {stride}"
        rows += _rows(what, calls, batch, rounds)
    return rows


def _rows(
    what: str, programs: dict[str, Callable[[], Any]], frames: int, rounds: int
) -> list[dict[str, Any]]:
    seconds = median(in_turn(programs, rounds=rounds))
    return [
        {
            "what": what,
            "contender": name,
            "seconds": taken,
            "rate": frames / taken,
            "unit": "frames/s",
        }
        for name, taken in seconds.items()
    ]


def measure(rounds: int) -> list[dict[str, Any]]:
    """Rows as `experiments.bench.encoders` shows them."""
    rows = depthwise(rounds)
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        print(f"{missing[0]} is not installed, and the weights are drawn with it")
        return rows
    with tempfile.TemporaryDirectory() as folder:
        rows += compare("MobileNetV2", *mobilenet(Path(folder)), 32, rounds)
        return rows + compare("VGG-16", *vgg(Path(folder)), 16, rounds)
