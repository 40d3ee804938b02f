"""A trained model as one safetensors file: weights, and in its metadata all else it is made of.

    params.<path>      the parameters; of `redifu_authors` under the published state dict's names
    statistics.<path>  mean and deviation that features are scaled by
    metadata           format, config (of the model), signature (labels, speakers, feature widths),
                       text_encoder and origin, all as JSON

Whoever reads such a file runs nothing of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from emojax.config import MODELS, ModelConfig, RedifuAuthorsConfig, from_dict, to_dict
from emojax.data.pipeline import smallest_batch
from emojax.errors import ConfigError, DataError
from emojax.files import write_atomically
from emojax.interop.authors import from_state_dict, state_shapes, to_state_dict
from emojax.models.registry import build
from emojax.types import MODALITIES, Signature

FORMAT = "emojax 1"
SUFFIX = ".safetensors"
_MOST_STEPS = 1000
"""Layers and diffusion steps of a config that is worth tracing."""
_WIDEST = 1 << 20
_LAYERS = ("layers", "encoder_layers", "graph_layers", "diffusion_steps", "rank", "taps")


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """A trained model and what it needs to be built again.

    Attributes:
      config: of the model.
      signature: of the corpus it was trained on.
      variables: "params" and "statistics", trees of f32 numpy arrays.
      text_encoder: what made the text features, if that was an encoder of transcripts.
      origin: whatever else is to be known of it: run, selection, scores, versions.
    """

    config: ModelConfig
    signature: Signature
    variables: Mapping[str, Any]
    text_encoder: Mapping[str, Any] | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def build(self) -> nn.Module:
        """The module; `build().apply(variables, batch)` predicts."""
        return build(self.config, self.signature)


def write(path: Path, weights: Weights) -> Path:
    """Write the file, whole or not at all.

    Raises:
      DataError: it cannot be written.
    """
    trees = jax.tree.map(lambda x: np.array(x, np.float32, order="C"), dict(weights.variables))
    if isinstance(weights.config, RedifuAuthorsConfig):
        trees["params"] = to_state_dict(trees["params"], weights.config, weights.signature)
    metadata = {
        "config": to_dict(weights.config), "signature": dataclasses.asdict(weights.signature),
        "text_encoder": weights.text_encoder and dict(weights.text_encoder),
        "origin": dict(weights.origin),
    }  # fmt: skip
    texts = {name: json.dumps(value) for name, value in metadata.items()}
    tensors = {name: np.asarray(x) for name, x in flatten_dict(trees, sep=".").items()}
    return write_atomically(path, save(tensors, {"format": FORMAT, **texts}))


def read(path: Path) -> Weights:
    """What `write` wrote.

    Raises:
      DataError: it cannot be read, is damaged, or is not such a file; its tensors are not those of
        the model in its metadata, or not finite.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    # A type that numpy does not have raises KeyError or TypeError.
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"is no safetensors file, or damaged: {error}", file=path) from error
    if metadata.get("format") != FORMAT:
        raise DataError(
            f"format is {metadata.get('format')!r}, not {FORMAT!r}", file=path,
            field="metadata", fix="Give a file that emojax exported",
        )  # fmt: skip
    try:
        values = json.loads(metadata["config"])
        config: Any = from_dict(values, MODELS[values["name"]])
        signature = _signature(json.loads(metadata["signature"]))
        text_encoder = json.loads(metadata.get("text_encoder", "null"))
        origin = json.loads(metadata.get("origin", "{}"))
        _check_sizes(config, signature)
    except (ConfigError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"describes no model: {type(error).__name__}: {error}", file=path, field="metadata",
            fix="Export the model again",
        ) from error  # fmt: skip
    variables = _variables(tensors, config, signature, path)
    return Weights(config, signature, variables, text_encoder, origin)


def _signature(known: Mapping[str, Any]) -> Signature:
    found = Signature.of(known)
    if not all(isinstance(name, str) for name in (found.name, *found.labels, *found.speakers)):
        raise ValueError("signature: names must be texts")
    for what in ("widths", "frames"):
        sizes = getattr(found, what)
        if len(sizes) != len(MODALITIES) or not all(
            type(size) is int and 0 < size <= _WIDEST for size in sizes
        ):
            raise ValueError(f"signature: {what} must be {len(MODALITIES)} positive numbers")
    if any(width % frames for width, frames in zip(found.widths, found.frames, strict=True)):
        raise ValueError(f"signature: frames {found.frames} do not divide widths {found.widths}")
    return found


def _check_sizes(config: ModelConfig, signature: Signature) -> None:
    """What a stranger's config may ask for before anything is traced."""
    for name in _LAYERS:
        if getattr(config, name, 0) > _MOST_STEPS:
            raise ValueError(f"model.{name} = {getattr(config, name)} is beyond {_MOST_STEPS}")
    if config.width > _WIDEST:
        raise ValueError(f"model.width = {config.width} is beyond {_WIDEST}")
    build(config, signature)


def _variables(
    tensors: Mapping[str, np.ndarray], config: ModelConfig, signature: Signature, path: Path
) -> dict[str, Any]:
    expected = shapes(config, signature)
    for name, shape in expected.items():
        if name not in tensors:
            raise DataError("the tensor is missing", file=path, field=name, fix="Export again")
        value = tensors[name]
        if value.dtype != np.float32 or value.shape != shape or not np.isfinite(value).all():
            raise DataError(
                f"{value.dtype} of shape {value.shape}, where the model takes finite float32 of "
                f"{shape}", file=path, field=name, fix="Export again",
            )  # fmt: skip
    if others := sorted(tensors.keys() - expected.keys()):
        raise DataError("the model has no such tensor", file=path, field=others[0])
    for name in (f"statistics.{m}_standardise.deviation" for m in MODALITIES):
        if (tensors[name] <= 0).any():
            raise DataError("deviations must be positive", file=path, field=name)
    trees = unflatten_dict({tuple(name.split(".", 1)): x for name, x in tensors.items()})
    params = trees["params"]
    if isinstance(config, RedifuAuthorsConfig):
        params = from_state_dict(params)
    else:
        params = unflatten_dict(params, sep=".")
    return {"params": params, "statistics": unflatten_dict(trees["statistics"], sep=".")}


def shapes(config: ModelConfig, signature: Signature) -> dict[str, tuple[int, ...]]:
    """Of every tensor of a file, by its name."""
    module = build(config, signature)
    traced: Any = jax.eval_shape(module.init, jax.random.key(0), smallest_batch(signature.widths))
    trees = nn.unbox(dict(traced))
    if isinstance(config, RedifuAuthorsConfig):
        flat = {f"params.{k}": v for k, v in state_shapes(config, signature).items()}
        trees = {"statistics": trees["statistics"]}
    else:
        flat = {}
    return flat | {name: x.shape for name, x in flatten_dict(trees, sep=".").items()}
