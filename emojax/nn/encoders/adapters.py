"""Low-rank adapters (LoRA, arXiv:2106.09685) as a function of parameters.

A kernel W [D_in, D_out] is used as W + s A B, with A [D_in, r] and B [r, D_out]. The sum is formed
from the parameters before a module sees them, so that any module can be adapted, merging is the
same function, and a step of training needs no more memory for its activations. What that costs, one
product of D_in r D_out a kernel, is little beside a batch of more than r word pieces.

Trees are nested dictionaries, as Flax has them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

ATTENTION = ("query", "key", "value", "attention_output")
FEED_FORWARD = ("hidden", "output")


def init_adapters(key: Array, params: Any, rank: int, modules: Collection[str]) -> Any:
    """Adapters of the kernels of modules of these names; s A B is 0 as long as B is.

    A is normal with deviation 1 / sqrt(D_in), B is zeros.
    """
    found = {}
    kernels = {path: leaf for path, leaf in flatten_dict(params).items() if path[-1] == "kernel"}
    chosen = [path for path in sorted(kernels) if path[-2] in modules]
    for path, each in zip(chosen, jax.random.split(key, max(len(chosen), 1)), strict=False):
        inputs, outputs = kernels[path].shape
        found[(*path, "a")] = jax.random.normal(each, (inputs, rank)) * inputs**-0.5
        found[(*path, "b")] = jnp.zeros((rank, outputs), jnp.float32)
    return unflatten_dict(found)


def with_adapters(params: Any, adapters: Any, scale: float) -> Any:
    """The parameters with s A B added to every kernel that has an adapter."""
    flat, low = flatten_dict(params), flatten_dict(adapters)
    for path in {path[:-1] for path in low}:
        flat[path] = flat[path] + scale * (low[(*path, "a")] @ low[(*path, "b")])
    return unflatten_dict(flat)
