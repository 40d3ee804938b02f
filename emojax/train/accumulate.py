"""The gradient of a batch from micro-batches, one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.config import TrainConfig
from emojax.config.swept import off
from emojax.errors import ConfigError
from emojax.nn.sharding import constrain
from emojax.train.objective import TINY, combined, terms
from emojax.types import Batch


def micro_batches(batch: Batch, count: int) -> Batch:
    """The rows of a batch as [count, B / count, ...].

    Micro-batch i has rows i, i + count, ...: of a batch whose rows are spread over devices each
    device keeps its own.

    Raises:
      ConfigError: the rows cannot be dealt out evenly.
    """
    rows, length = batch.segment.shape
    if rows % count:
        raise ConfigError(
            f"train.accumulate = {count} must divide the rows of a batch, here {rows}"
        )

    def dealt(x: Array) -> Array:
        parts = jnp.moveaxis(x.reshape(rows // count, count, *x.shape[1:]), 1, 0)
        return constrain(parts, *(None, "batch", "length", None)[: parts.ndim])

    # Of all real utterances any number may be in one micro-batch.
    capacity = batch.capacity and min(batch.capacity, rows // count * length)
    return dataclasses.replace(jax.tree.map(dealt, batch), capacity=capacity)


def accumulated(
    output_of: Callable[[Any, Batch, Array], Any],
    params: Any,
    batch: Batch,
    key: Array,
    config: TrainConfig,
    weights: Float[Array, " C"] | None,
) -> tuple[Array, Any]:
    """(objective, its gradient) of the whole batch, but for the draws of dropout.

    The objective is a function of means over the labelled utterances of the whole batch: neither
    it nor its gradient is the mean of the micro-batches' own. With means m_t = S_t / W the gradient
    is sum_t (d objective / d m_t) / W grad S_t, and sums S_t add up over micro-batches. W depends
    on labels alone, and the derivatives on the means only where a power of them is taken: then
    the means are found first, in a forward pass of its own. Each micro-batch draws its own dropout.

    Args:
      output_of: (params, batch, key) -> the model's output.
      key: folded anew for each micro-batch.
    """
    parts = micro_batches(batch, config.accumulate)
    each = parts, jnp.arange(config.accumulate)

    def sums_of(params: Any, part: Batch, index: Array) -> tuple[Array, Array]:
        output = output_of(params, part, jax.random.fold_in(key, index))
        sums, weight = terms(output, part.label, config, weights)
        return jnp.stack(sums), weight

    def add(total: Any, given: tuple[Batch, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, sums_of(params, *given)), None

    shapes = jax.eval_shape(sums_of, params, *jax.tree.map(lambda x: x[0], each))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    powers = not off(config.auxiliary_weight) and config.auxiliary_power > 1
    sums = jax.lax.scan(add, zeros, each)[0][0] if powers else zeros[0]
    total = jnp.maximum(_weight(batch, weights), TINY)
    slopes = jax.grad(lambda means: combined(list(means), config))(sums / total) / total

    def weighted(params: Any, part: Batch, index: Array) -> tuple[Array, Array]:
        sums, _ = sums_of(params, part, index)
        return slopes @ sums, sums

    def step(carry: Any, given: tuple[Batch, Array]) -> tuple[Any, None]:
        (_, sums), gradients = jax.value_and_grad(weighted, has_aux=True)(params, *given)
        return jax.tree.map(jnp.add, carry, (sums, gradients)), None

    start = zeros[0], jax.tree.map(jnp.zeros_like, params)
    (sums, gradients), _ = jax.lax.scan(step, start, each)
    return combined(list(sums / total), config), gradients


def _weight(batch: Batch, weights: Float[Array, " C"] | None) -> Array:
    """What the sums of the whole batch are divided by."""
    labelled = batch.label >= 0
    if weights is None:
        return labelled.sum().astype(jnp.float32)
    return jnp.where(labelled, weights[jnp.maximum(batch.label, 0)], 0).sum()
