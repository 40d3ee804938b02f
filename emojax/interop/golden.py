"""Check `redifu_authors` against a golden file of the published PyTorch implementation.

    python -m emojax.interop.golden FILE.npz

prints the errors as JSON and exits with 1 if one is above its tolerance, with 2 if the file cannot
be read. The file holds `config` (JSON), `param/*` (state dict), `input/*`, `output/*`, `grad/*`.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import FlaxError
from jax import Array

from emojax.config import RedifuAuthorsConfig
from emojax.errors import DataError, EmojaxError
from emojax.interop.authors import from_state_dict
from emojax.models.output import Output
from emojax.models.redifu_authors import RedifuAuthors
from emojax.nn.layers import identity_statistics
from emojax.ops.losses import cross_entropy
from emojax.types import MODALITIES, Batch, Signature

TOLERANCES = {"logits": 1e-5, "modality_log_probabilities": 1e-5, "loss": 5e-6, "gradients": 1e-4}
"""Absolute, but gradients relative to the largest entry of their tensor."""


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a golden by name; raises `DataError` for a file that is none."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it is not an .npz archive")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
    # numpy, zipfile and zlib share no base class for what a damaged archive makes them raise.
    except Exception as error:
        raise DataError(f"cannot be read as a golden: {error}", file=path) from error
    if "config" not in arrays:
        raise DataError(
            "has no entry 'config'", file=path, fix="A golden is an .npz with config, param/*, ..."
        )
    return arrays


def _group(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def _batch(inputs: Mapping[str, np.ndarray]) -> Batch:
    mask = inputs["mask"] > 0
    return Batch(
        **{modality: jnp.asarray(inputs[modality]) for modality in MODALITIES},
        present=jnp.broadcast_to(mask[..., None], (*mask.shape, len(MODALITIES))),
        speaker=jnp.asarray(inputs["speaker"], jnp.int32),
        segment=jnp.asarray(mask, jnp.int32),
        position=jnp.broadcast_to(jnp.arange(mask.shape[1], dtype=jnp.int32), mask.shape),
        label=jnp.where(mask, jnp.asarray(inputs["label"], jnp.int32), -1),
        capacity=int(mask.sum()),
    )


def _loss(
    model: RedifuAuthors, params: Any, batch: Batch, weight: Array | None
) -> tuple[Array, Output]:
    statistics = identity_statistics(model.signature.widths)
    output: Any = model.apply({"params": params, "statistics": statistics}, batch)
    fused = cross_entropy(output.logits, batch.label, weight)
    each = [
        cross_entropy(output.modality_logits[:, :, m], batch.label, weight)
        for m in range(len(MODALITIES))
    ]
    return fused + sum(jnp.square(loss) for loss in each) / 10, output


@functools.lru_cache
def _gradient_function(model: RedifuAuthors) -> Callable[..., Any]:
    """((loss, output), gradients) of parameters, batch and weights; compiled once a model."""
    return jax.jit(jax.value_and_grad(functools.partial(_loss, model), has_aux=True))


def _relative(ours: Array, theirs: np.ndarray) -> float:
    error, scale = np.abs(np.asarray(ours) - theirs).max(), np.abs(theirs).max()
    if scale == 0:  # a tensor without any published gradient must have none here either
        return 0.0 if error == 0 else float("inf")
    return float(error / scale)


def check(path: str | Path) -> dict[str, float]:
    """Largest error of each kind in `TOLERANCES`, NaN if a number on either side is none.

    Raises `DataError` if the file is no golden.
    """
    arrays = read(path)
    try:
        return _compare(arrays)
    except (LookupError, AttributeError, TypeError, ValueError, FlaxError) as error:
        raise DataError(f"is not a whole golden: {error}", file=path) from error


def _compare(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    config = json.loads(str(arrays["config"]))
    inputs, outputs = _group(arrays, "input/"), _group(arrays, "output/")
    state = _group(arrays, "param/")
    model = RedifuAuthors(
        RedifuAuthorsConfig(
            branch=config["branch"].lower(), width=config["hidden_dim"],
            heads=config["n_head"], window=config["window"],
        ),
        Signature(
            "golden", tuple(map(str, range(outputs["logits"].shape[-1]))),
            tuple(map(str, range(len(state["speaker_embeddings.weight"]) - 1))),
            (inputs["text"].shape[-1], inputs["audio"].shape[-1], inputs["visual"].shape[-1]),
        ),
    )  # fmt: skip
    params = jax.tree.map(jnp.asarray, from_state_dict(state))
    batch = _batch(inputs)
    weight = jnp.asarray(inputs["class_weight"]) if "class_weight" in inputs else None
    # The gradients go through the same renaming as the weights; what the published forward pass
    # never reads has none, and its entries stay out of the comparison.
    expected = from_state_dict(_group(arrays, "grad/"))

    (loss, output), gradients = _gradient_function(model)(params, batch, weight)
    mask = np.asarray(batch.segment) > 0
    log_probability = jax.nn.log_softmax(output.modality_logits)

    def distance(ours: Array, theirs: np.ndarray) -> float:
        return float(np.abs(np.asarray(ours) - theirs)[mask].max())

    # numpy's maximum, unlike Python's, never loses a NaN.
    each = [
        distance(log_probability[:, :, i], outputs[f"log_prob_{m}"])
        for i, m in enumerate(MODALITIES)
    ]
    return {
        "logits": distance(output.logits, outputs["logits"]),
        "modality_log_probabilities": float(np.max(each)),
        "loss": abs(float(loss) - float(outputs["loss"])),
        "gradients": float(np.max(jax.tree.leaves(jax.tree.map(_relative, gradients, expected)))),
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m emojax.interop.golden",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    path = parser.parse_args(arguments).file
    try:
        errors = check(path)
    except EmojaxError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    passed = all(errors[name] <= limit for name, limit in TOLERANCES.items())
    # JSON has no NaN; null is an error that is not a finite number.
    shown = {name: error if math.isfinite(error) else None for name, error in errors.items()}
    report = {"file": str(path), "errors": shown, "tolerances": TOLERANCES, "passed": passed}
    print(json.dumps(report, indent=2, allow_nan=False))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
