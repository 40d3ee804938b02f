"""The state of training and the one pure function that advances it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from emojax.config import TrainConfig
from emojax.config.swept import off
from emojax.data.pipeline import smallest_batch
from emojax.dist.compiler import compiler_options
from emojax.dist.rules import placement, replicated, tree_shardings
from emojax.nn.layers import identity_statistics
from emojax.nn.sharding import named_axes, sharded
from emojax.train.accumulate import accumulated
from emojax.train.halting import NEVER
from emojax.train.objective import objective
from emojax.types import Batch


@struct.dataclass
class TrainState:
    """Everything that a step reads and writes.

    Attributes:
      step: i32, steps taken.
      params, opt_state: of the model and its optimiser.
      average: moving average of the parameters, or None.
      statistics: the model's collection of the training split's statistics; never changes.
      key: u32[...], data of the key that every step's dropout is folded from.
      halted: i32, the first step whose loss or gradient was not finite, or `NEVER`. From then on
        steps change nothing, so the last good state survives until the host looks.
    """

    step: Array
    params: Any
    opt_state: Any
    average: Any
    statistics: Any
    key: Array
    halted: Array

    def variables(self) -> dict[str, Any]:
        """What `model.apply` evaluates: the averaged parameters where there are some."""
        params = self.params if self.average is None else self.average
        return {"params": params, "statistics": self.statistics}


def fresh_state(
    model: nn.Module, optimiser: optax.GradientTransformation, config: TrainConfig
) -> Callable[[Array, Batch, Any], TrainState]:
    """(key, batch, statistics) -> state; every leaf has a strong dtype."""

    def initial_state(key: Array, batch: Batch, statistics: Any) -> TrainState:
        init_key, dropout_key = jax.random.split(key)
        params = model.init(init_key, batch)["params"]
        state = TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimiser.init(params),
            average=None if off(config.ema_decay) else jax.tree.map(jnp.copy, params),
            statistics=statistics,
            key=jax.random.key_data(dropout_key),
            halted=jnp.full((), NEVER, jnp.int32),
        )
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, x.dtype), state)

    return initial_state


def state_shapes(
    model: Any, optimiser: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """The state without content, parameters and what follows them boxed with their axes' names."""
    widths = model.signature.widths
    given = jax.random.key(0), smallest_batch(widths), identity_statistics(widths)
    with named_axes():  # which averages and moments take over from their parameters
        return jax.eval_shape(fresh_state(model, optimiser, config), *given)


def state_shardings(
    model: Any, optimiser: optax.GradientTransformation, config: TrainConfig, mesh: Mesh
) -> TrainState:
    """For each array of the state where it lies on the mesh, by the rules of `dist.rules`."""
    return tree_shardings(mesh, state_shapes(model, optimiser, config))


def make_initial_state(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    config: TrainConfig,
    mesh: Mesh | None = None,
) -> jax.stages.Wrapped:
    """The jitted function (key, batch, statistics) -> fresh state; of the batch only shapes matter.

    Every leaf lies where `state_shardings` says; without a mesh, on one device.
    """
    initial_state = fresh_state(model, optimiser, config)
    shardings = None if mesh is None else state_shardings(model, optimiser, config, mesh)
    return jax.jit(
        initial_state, out_shardings=shardings, compiler_options=compiler_options(once=True)
    )


def advance(
    state: TrainState,
    batch: Batch,
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    config: TrainConfig,
    schedule: optax.Schedule,
    class_weight: Array | None,
) -> tuple[TrainState, dict[str, Array]]:
    """One step of training, pure: (state, metrics), the latter as `make_train_step` says."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)

    def output_of(params: Any, batch: Batch, key: Array) -> Any:
        variables = {"params": params, "statistics": state.statistics}
        return model.apply(variables, batch, rngs={"dropout": key})

    def loss_of(params: Any) -> Array:
        return objective(output_of(params, batch, key), batch.label, config, class_weight)

    if config.accumulate == 1:
        loss, gradients = jax.value_and_grad(loss_of)(state.params)
    else:
        loss, gradients = accumulated(output_of, state.params, batch, key, config, class_weight)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    halted = jnp.where((state.halted == NEVER) & ~finite, state.step, state.halted)
    good = halted == NEVER

    def update(params: Any, opt_state: Any, average: Any) -> tuple[Any, Any, Any]:
        updates, opt_state = optimiser.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        if average is not None:
            average = optax.incremental_update(params, average, 1 - config.ema_decay)
        return params, opt_state, average

    # A branch, not a selection of each array: the update then happens in place, where choosing
    # between old and new would hold two more copies of the parameters.
    params, opt_state, average = jax.lax.cond(
        good, update, lambda *old: old, state.params, state.opt_state, state.average
    )
    metrics = {
        "loss": loss,
        "gradient_norm": norm,
        "learning_rate": jnp.asarray(schedule(state.step), jnp.float32),
        "halted": halted,
    }
    state = dataclasses.replace(
        state, step=state.step + good, params=params, opt_state=opt_state, average=average,
        halted=halted,
    )  # fmt: skip
    return state, metrics


def make_train_step(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    config: TrainConfig,
    schedule: optax.Schedule,
    weights: np.ndarray | None,
    mesh: Mesh | None = None,
) -> jax.stages.Wrapped:
    """The jitted step: (state, batch) -> (state, metrics), the old state's memory reused.

    With a mesh the state lies, and stays, where `state_shardings` says, and batches as
    `dist.mesh.put_batch` puts them. Metrics are scalars on every device: loss (nats),
    gradient_norm (before clipping), learning_rate, halted.
    """
    class_weight = None if weights is None else jnp.asarray(weights)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        with sharded(None if mesh is None else placement(mesh)):
            return advance(state, batch, model, optimiser, config, schedule, class_weight)

    options: dict[str, Any] = {"donate_argnums": 0, "compiler_options": compiler_options()}
    if mesh is not None:
        shardings = state_shardings(model, optimiser, config, mesh)
        options |= {
            "in_shardings": (shardings, None), "out_shardings": (shardings, replicated(mesh))
        }  # fmt: skip
    return jax.jit(train_step, **options)
