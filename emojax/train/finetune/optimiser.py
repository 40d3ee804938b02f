"""What of a text classifier is trained, and how fast each part of it.

Rates differ by depth (discriminative fine-tuning, arXiv:1801.06146): the nearer to the words, the
less a pretrained layer has to change.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from emojax.config.finetune import TextConfig, TuneConfig
from emojax.nn.encoders.adapters import ATTENTION, FEED_FORWARD, init_adapters, with_adapters

EMBEDDINGS = -1
"""Depth of the tables and of the norm behind them."""


def depth_of(path: tuple[str, ...]) -> int:
    """The layer of a parameter of the encoder, by its path from the encoder on."""
    name = path[0]
    return int(name.removeprefix("layer_")) if name.startswith("layer_") else EMBEDDINGS


def divide(params: Any, text: TextConfig, key: Array) -> tuple[Any, Any]:
    """(what is trained, what stays as it is), from the parameters of a `TextClassifier`.

    Args:
      key: for adapters.
    """
    encoder, head = params["encoder"], params["head"]
    if text.lora_rank:
        modules = (*ATTENTION, *(FEED_FORWARD if text.lora_feed_forward else ()))
        adapters = init_adapters(key, encoder, text.lora_rank, modules)
        return {"adapters": adapters, "head": head}, encoder
    frozen: dict[tuple[str, ...], Any] = {}
    trained: dict[tuple[str, ...], Any] = {}
    for path, leaf in flatten_dict(encoder).items():
        depth = depth_of(path)
        stays = depth < text.freeze_layers
        if depth == EMBEDDINGS:
            stays = text.freeze_embeddings or text.freeze_layers > 0
        (frozen if stays else trained)[path] = leaf
    return {"encoder": unflatten_dict(trained), "head": head}, unflatten_dict(frozen)


def together(trained: Any, frozen: Any, text: TextConfig) -> dict[str, Any]:
    """The parameters of a `TextClassifier` from what `divide` gave, adapters merged."""
    if text.lora_rank:
        scale = text.lora_alpha / text.lora_rank
        encoder = with_adapters(frozen, trained["adapters"], scale)
    else:
        encoder = unflatten_dict(flatten_dict(frozen) | flatten_dict(trained["encoder"]))
    return {"encoder": encoder, "head": trained["head"]}


def build_optimiser(train: TuneConfig) -> optax.GradientTransformationExtraArgs:
    """AdamW (arXiv:1711.05101) with a rate for each depth; decay on matrices alone.

    `update` takes `rates`, a row of `rates_of`: they belong to the data of a step, so that runs of
    any length and with any rates are one program.
    """
    clip = [] if train.clip_norm is None else [optax.clip_by_global_norm(train.clip_norm)]
    decay = optax.add_decayed_weights(train.weight_decay, mask=_matrices)
    return optax.chain(*clip, optax.scale_by_adam(), decay, _descend())


def _descend() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, *, rates: Array, **_: Any) -> Any:
        def scaled(path: tuple[Any, ...], update: Array) -> Array:
            return -rates[_place(tuple(entry.key for entry in path))] * update

        return jax.tree_util.tree_map_with_path(scaled, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _place(path: tuple[str, ...]) -> int:
    """Of a parameter's rate in a row of `rates_of`."""
    return 0 if path[0] == "head" else 2 + depth_of(path[1:])


def _matrices(trained: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, trained)


def rates_of(train: TuneConfig, layers: int, steps: int) -> np.ndarray:
    """f32[steps, 2 + layers]: rates of the decision, the embeddings and each layer, by step."""
    depth = np.arange(EMBEDDINGS, layers)
    highest = train.learning_rate * train.layer_decay ** (layers - 1.0 - depth)
    highest = np.concatenate([[train.head_learning_rate], highest])
    return (schedule(train, steps)[:, None] * highest).astype(np.float32)


def schedule(train: TuneConfig, steps: int) -> np.ndarray:
    """f64[steps]: shares of the highest rates, rising in a line and then falling to nothing."""
    warm = min(round(train.warmup * steps), steps - 1)
    step = np.arange(steps)
    rising = (step + 1) / max(warm, 1)
    falling = (steps - step) / (steps - warm)
    return np.where(step < warm, rising, falling)


def parameters(tree: Any) -> int:
    """How many numbers there are."""
    return sum(int(jnp.size(leaf)) for leaf in jax.tree.leaves(tree))
