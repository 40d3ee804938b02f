"""What others call the tensors of MobileNetV2 and VGG-16 in their state dicts."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from emojax.nn.encoders.mobilenet import STRIDES
from emojax.nn.encoders.vgg import DEPTHS

Names = dict[tuple[str, str], str]
"""Of a tensor of ours, (module, leaf), its name in the file."""

_OF_NORM = {
    "scale": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"
}  # fmt: skip


def _normalised(modules: Mapping[str, tuple[str, str]]) -> Names:
    """Names of a MobileNetV2's tensors from those of its convolutions and batch norms."""
    names: Names = {}
    for module, (convolution, norm) in modules.items():
        names[module, "kernel"] = f"{convolution}.weight"
        names |= {(module, leaf): f"{norm}.{theirs}" for leaf, theirs in _OF_NORM.items()}
    return names


def hugging_face() -> Names:
    """Of a `MobileNetV2Model`."""
    theirs = {"stem": "conv_stem.first_conv", "last": "conv_1x1"}
    parts = {"expand": "expand_1x1", "depthwise": "conv_3x3", "reduce": "reduce_1x1"}
    for ours, part in parts.items():
        theirs[f"stem_{ours}"] = f"conv_stem.{part}"
        theirs |= {f"block_{i}_{ours}": f"layer.{i}.{part}" for i in range(len(STRIDES))}
    return _normalised(
        {ours: (f"{name}.convolution", f"{name}.normalization") for ours, name in theirs.items()}
    )


def torchvision() -> Names:
    """Of `mobilenet_v2`."""
    modules = {
        "stem": ("features.0.0", "features.0.1"),
        "stem_depthwise": ("features.1.conv.0.0", "features.1.conv.0.1"),
        "stem_reduce": ("features.1.conv.1", "features.1.conv.2"),
        "last": ("features.18.0", "features.18.1"),
    }
    for i in range(len(STRIDES)):
        inner = f"features.{i + 2}.conv"
        modules[f"block_{i}_expand"] = (f"{inner}.0.0", f"{inner}.0.1")
        modules[f"block_{i}_depthwise"] = (f"{inner}.1.0", f"{inner}.1.1")
        modules[f"block_{i}_reduce"] = (f"{inner}.2", f"{inner}.3")
    return _normalised(modules)


def vgg_names(tensors: Mapping[str, np.ndarray]) -> Names:
    """Of a VGG-16, in whichever of three manners the file has them; VGG-Face's if in none."""
    convolutions = [
        (stage, place) for stage, depth in enumerate(DEPTHS, 1) for place in range(1, depth + 1)
    ]
    if "features.0.weight" in tensors:
        # Between convolutions lie ReLUs, and a pooling behind each stage.
        steps = itertools.accumulate([0] + [2 * depth + 1 for depth in DEPTHS[:-1]])
        first = dict(enumerate(steps, 1))
        theirs = {
            f"conv{stage}_{place}": f"features.{first[stage] + 2 * (place - 1)}"
            for stage, place in convolutions
        } | {"fc6": "classifier.0", "fc7": "classifier.3"}
    else:
        between = "_" if "conv_1_1.weight" in tensors else ""
        theirs = {f"conv{s}_{p}": f"conv{between}{s}_{p}" for s, p in convolutions}
        theirs |= {"fc6": "fc6", "fc7": "fc7"}
    leaves = {"kernel": "weight", "bias": "bias"}
    return {
        (module, leaf): f"{name}.{leaves[leaf]}" for module, name in theirs.items()
        for leaf in leaves
    }  # fmt: skip
