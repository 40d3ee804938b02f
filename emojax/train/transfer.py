"""A run that starts from parameters of another, as fusion from a shared space."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from emojax.data.pipeline import smallest_batch
from emojax.errors import ConfigError
from emojax.models.registry import build
from emojax.train.evaluation import best_variables
from emojax.train.run import Run, read_run
from emojax.train.step import TrainState

FIELD = "train.initialise_from"


def lent(run: Run) -> dict[str, Any]:
    """Parameters, f32, of the run that `train.initialise_from` names, in the epoch that its
    validation chose: those that have the same path and shape here. A tree; empty if none is named.

    Raises:
      ConfigError: features there have other widths, or no parameter fits.
      CheckpointError: there is no run, or nothing was trained there.
    """
    source = run.config.train.initialise_from
    if not source:
        return {}
    folder = Path(source).expanduser()
    config, signature, _ = read_run(folder)
    if signature.widths != run.corpus.signature.widths:
        raise ConfigError(
            f"{FIELD}: {folder} was trained on features {signature.widths} wide (text, audio, "
            f"visual), but those of {run.corpus.path} are {run.corpus.signature.widths} wide"
        )
    theirs = flatten_dict(best_variables(folder, build(config.model, signature), signature)[0])
    widths = run.corpus.signature.widths
    ours = flatten_dict(jax.eval_shape(run.model.init, jax.random.key(0), smallest_batch(widths)))
    fitting = {
        path[1:]: np.asarray(value)
        for path, value in theirs.items()
        if path[0] == "params" and path in ours and ours[path].shape == value.shape
    }
    if not fitting:
        raise ConfigError(
            f"{FIELD}: {folder} ({config.model.name}, width {config.model.width}) has no parameter "
            f"of the name and shape of one of {run.config.model.name} of width "
            f"{run.config.model.width}. Give both the same model.width"
        )
    return unflatten_dict(fitting)


def starting_from(state: TrainState, given: dict[str, Any]) -> TrainState:
    """The state with parameters, and their average, as `lent` found them.

    Arrays of a device stay where they lie, those of the host stay there.
    """
    if not given:
        return state
    new = flatten_dict(given)

    def put(path: tuple[str, ...], old: Any) -> Any:
        if path not in new:
            return old
        return jax.device_put(new[path], old.sharding) if isinstance(old, jax.Array) else new[path]

    def replaced(tree: Any) -> Any:
        return unflatten_dict({path: put(path, old) for path, old in flatten_dict(tree).items()})

    average = None if state.average is None else replaced(state.average)
    return dataclasses.replace(state, params=replaced(state.params), average=average)
