"""Optimisers and learning-rate schedules."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from emojax.config import TrainConfig


def build_schedule(config: TrainConfig, epoch_steps: Sequence[int]) -> optax.Schedule:
    """Rate at each step: a linear rise, then a cosine down to `final_learning_rate`.

    Args:
      epoch_steps: number of steps of every epoch; they differ a little where conversations are
        packed anew.
    """
    total = int(np.sum(epoch_steps))
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup > 0 else config.learning_rate,
        peak_value=config.learning_rate,
        # At least one step must be left to fall.
        warmup_steps=min(round(config.warmup * total), max(total - 1, 0)),
        decay_steps=max(total, 1),
        end_value=config.final_learning_rate,
    )
    if not config.schedule_per_epoch:
        # Counted from 1: no step is spent at a rate of zero.
        return lambda step: schedule(step + 1)
    starts = jnp.asarray(np.concatenate([[0], np.cumsum(epoch_steps)[:-1]]), jnp.int32)
    return lambda step: schedule(
        starts[jnp.searchsorted(starts, step, side="right", method="compare_all") - 1]
    )


def build_optimiser(config: TrainConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW with decay on matrices alone, or the authors' Adam with L2 on everything."""
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    if config.optimiser == "adam_l2":
        update = [optax.add_decayed_weights(config.weight_decay), optax.adam(schedule)]
    else:
        update = [optax.adamw(schedule, weight_decay=config.weight_decay, mask=_matrices)]
    return optax.chain(*clip, *update)


def _matrices(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda p: p.ndim > 1, params)
