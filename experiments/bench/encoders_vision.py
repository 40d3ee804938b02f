"""Frames per second of the vision encoders beside transformers and PyTorch, on the same weights.

MobileNetV2 on crops of 96 x 96 and VGG-16 on 224 x 224, fp32, weights drawn by transformers and by
PyTorch and imported as a user's file is. Everything is timed in turn, round by round, in one
process, so that a machine that slows down slows all of it; the median round counts, and ratios are
within a run. `difference` is the largest of any feature from PyTorch's. Depthwise convolutions are
also timed by themselves, against XLA's grouped convolution.

Cost: 3 minutes on two idle cores, most of it VGG. Needs torch and transformers.
Aim: 100 frames a second for MobileNetV2 on two cores, and no slower than PyTorch.

    python -m experiments.bench.encoders_vision
    python -m experiments.bench.encoders_vision --json --without-vgg
"""

from __future__ import annotations

import json
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
from experiments import command
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
    encoder: VisionEncoder, theirs: Callable[[Any], Any], batch: int, rounds: int
) -> dict[str, Any]:
    """Frames per second of both on batches of that many crops, features to the host included."""
    import torch

    size = encoder.size
    crops = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
    mean, deviation = (np.float32(each) for each in (encoder.colours[0], encoder.colours[1]))

    def in_torch(layout: torch.memory_format) -> np.ndarray:
        x = (torch.from_numpy(crops).float() / 255 - torch.from_numpy(mean)) / torch.from_numpy(
            deviation
        )
        x = x.permute(0, 3, 1, 2).contiguous(memory_format=layout)
        with torch.inference_mode():
            return theirs(x).numpy()

    found = encoder.encode(crops)
    wanted = in_torch(torch.contiguous_format)
    seconds = median(
        in_turn(
            {
                "emojax": lambda: encoder.encode(crops),
                "torch": lambda: in_torch(torch.contiguous_format),
                "torch, channels last": lambda: in_torch(torch.channels_last),
            },
            rounds=rounds,
        )
    )
    rates = {name: batch / each for name, each in seconds.items()}
    return {
        "size": size, "batch": batch, "frames_per_second": rates,
        "times_torch": rates["emojax"] / max(rates["torch"], rates["torch, channels last"]),
        "difference": float(np.abs(found - wanted).max()), "largest": float(np.abs(wanted).max()),
    }  # fmt: skip


def depthwise(rounds: int, batch: int = 16) -> list[dict[str, Any]]:
    """Milliseconds of single depthwise convolutions, as shifted products and grouped."""
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

        programs = {"shifted": jax.jit(shifted), "grouped": jax.jit(grouped)}
        calls = {name: lambda f=f, x=x, kernel=kernel: f(x, kernel) for name, f in programs.items()}
        seconds = median(in_turn(calls, rounds=rounds))
        rows.append(
            {"size": size, "channels": width, "stride": stride}
            | {f"{name}_ms": 1e3 * each for name, each in seconds.items()}
        )
    return rows


def show(results: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(110, Console().width))
    table = Table(title="Frames per second, fp32")
    for column in ("", "emojax", "torch", "torch, channels last", "x torch", "difference"):
        table.add_column(column, justify="left" if not column else "right")
    for name, m in results["encoders"].items():
        rates = (f"{rate:.1f}" for rate in m["frames_per_second"].values())
        table.add_row(
            f"{name}, {m['batch']} of {m['size']} x {m['size']}", *rates,
            f"{m['times_torch']:.2f}", f"{m['difference']:.1e} of {m['largest']:.1e}",
        )  # fmt: skip
    console.print(table)
    for row in results["depthwise"]:
        console.print(
            f"depthwise {row['size']} x {row['size']} x {row['channels']}, stride {row['stride']}: "
            f"{row['shifted_ms']:.1f} ms, grouped {row['grouped_ms']:.1f} ms"
        )


def main() -> None:
    parser = command.parser("experiments.bench.encoders_vision", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--without-vgg", action="store_true", help="MobileNetV2 alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    with tempfile.TemporaryDirectory() as folder:
        found = {"mobilenet_v2": compare(*mobilenet(Path(folder)), 32, arguments.rounds)}
        if not arguments.without_vgg:
            found["vgg16"] = compare(*vgg(Path(folder)), 16, arguments.rounds)
    results = {"encoders": found, "depthwise": depthwise(arguments.rounds)}
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


if __name__ == "__main__":
    main()
