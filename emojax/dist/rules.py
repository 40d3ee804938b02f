"""The one table that says which axis of an array goes along which axes of the mesh."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from emojax.nn.sharding import Placement, Rules
from emojax.types import Batch

RULES: Rules = {
    # What is computed.
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    # What is computed and what computes it: heads, and hidden units of feed-forward layers.
    "heads": ("model",),
    "mlp": ("model",),
    # What is stored: model width, gathered before use; and the same of a fused projection, whose
    # columns (projection, head, unit) cannot be divided by head.
    "embed": ("fsdp",),
    "fused": ("fsdp", "model"),
}
"""Axes without a name, and parameters without names, are on every device whole: features, classes,
relations, and all vectors but the biases of divided units."""


def placement(mesh: Mesh | AbstractMesh) -> Placement:
    return Placement(mesh, RULES)


def batch_shardings(mesh: Mesh | AbstractMesh, batch: Batch) -> Batch:
    """For each array of a batch: rows over data and fsdp, columns over sequence."""
    rules = placement(mesh)

    def of(x: Any) -> NamedSharding:
        names = ("batch", "length", None)[: len(x.shape)]
        return rules.sharding(names, x.shape)

    return jax.tree.map(of, batch)


def tree_shardings(mesh: Mesh | AbstractMesh, boxed: Any) -> Any:
    """For each array of a tree whose parameters, averages and moments are boxed with their names.

    What has no box is whole on every device.
    """
    rules = placement(mesh)

    def of(x: Any) -> NamedSharding:
        if isinstance(x, nn.LogicallyPartitioned):
            return rules.sharding(x.names, x.value.shape)
        return NamedSharding(mesh, PartitionSpec())

    return jax.tree.map(of, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())
