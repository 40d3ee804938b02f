"""Models small enough to be exported by the dozen, and what they say in JAX."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jaxtyping
import numpy as np
import scipy.special

from emojax.config import MODELS, RedifuAuthorsConfig
from emojax.interop.serving import INPUTS
from emojax.models.registry import build
from tests.batches import pack, random_conversation, random_variables
from tests.models.test_promises import BASELINES, CASES, signature_of

TOLERANCE = 1e-5
AUTHORS = RedifuAuthorsConfig(width=16, heads=4, window=3)
CONFIGS: dict[str, Any] = {
    "redifu": CASES["redifu, default"],
    "redifu_authors": AUTHORS,
    **BASELINES,
}
assert CONFIGS.keys() == MODELS.keys()
_SMALL = dataclasses.replace(CASES["redifu, default"], graph_layers=1)
VARIANTS: dict[str, Any] = {
    "redifu, temporal, causal, speakers embedded": dataclasses.replace(
        _SMALL, attention="temporal", causal=True, speaker_embedding=True
    ),
    "redifu, v2, within the utterance": dataclasses.replace(
        _SMALL, attention="v2", cross_modal="utterance"
    ),
    "redifu, plain attention, unguided": dataclasses.replace(
        _SMALL, attention="none", text_guidance=False
    ),
    **{f"{name}, causal": CASES[f"{name}, causal"] for name in ("bc_lstm", "cnn_rnn")},
    "dialogue_gcn, causal": CASES["dialogue_gcn, causal"],
    "early_fusion, frames": CASES["early_fusion, frames"],
    "redifu_authors, meld": dataclasses.replace(AUTHORS, branch="meld"),
}  # fmt: skip
"""What changes operators; tried with one batch alone."""
CONVERSATIONS = [random_conversation(seed, length) for seed, length in enumerate([9, 4, 1, 7, 23])]
_A, _B, _C, _D, _E = range(5)
PACKED = [[_A, _B, _C], [_D], [_E], []], 24
"""Conversations of each row, and the rows' length; long enough for several blocks of a window."""
ROWS = {
    "packed": PACKED,
    "one utterance": ([[_C]], 1),
    "one row": ([[_D]], 7),
    "padded": ([[_B], [_A], [_C]], 10),
}
ROWS_OF_AUTHORS = {"side by side": ([[_A], [_B], [_E], [_C]], 24), "one row": ([[_D]], 7)}
"""One conversation in each row."""


@contextlib.contextmanager
def open_sizes() -> Iterator[None]:
    """Annotations of shapes are not checked: they want numbers, and sizes are symbols inside."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@functools.cache
def made(name: str) -> tuple[Any, Any, Callable[[Any], Any]]:
    """A model, its variables, and the two as a function of a batch; compiled once for all tests."""
    config = {**CONFIGS, **VARIANTS}[name]
    module = build(config, signature_of(name))
    variables = random_variables(module, pack([[CONVERSATIONS[_A]]], 12))
    # Statistics away from the identity: features must be normalised inside, once.
    variables["statistics"] = jax.tree.map(lambda x: 0.8 * x + 0.1, variables["statistics"])
    return module, variables, jax.jit(lambda batch: module.apply(variables, batch))


def batch_of(rows: list[list[int]], length: int) -> Any:
    return pack([[CONVERSATIONS[i] for i in row] or [_NOBODY] for row in rows], length)


_NOBODY = random_conversation(0, 0)


def arrays(batch: Any) -> list[np.ndarray]:
    return [np.asarray(getattr(batch, name)) for name in INPUTS]


def probabilities(output: Any) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        scipy.special.softmax(np.asarray(x, np.float64), -1)
        for x in (output.logits, output.modality_logits)
    )


def largest_difference(name: str, served: Callable[..., Any], which: str | None = None) -> float:
    """Of any probability that another runtime gives, from JAX's.

    But for `redifu_authors` a conversation's output is its own (tests/models/test_promises.py), so
    JAX is asked once, and compiled once.

    Args:
      which: of the rows; None is all.
    """
    _, _, apply = made(name)
    worst = 0.0
    if name.startswith("redifu_authors"):
        for rows, length in ROWS_OF_AUTHORS.values() if which is None else [ROWS_OF_AUTHORS[which]]:
            batch = batch_of(rows, length)
            longest = int((np.asarray(batch.segment) > 0).sum(1).max())
            output = apply(batch.replace(extent=np.full(len(rows), longest, np.int32)))
            real = np.asarray(batch.segment) > 0
            for wanted, got in zip(probabilities(output), served(*arrays(batch)), strict=True):
                worst = max(worst, float(np.abs(wanted - np.asarray(got))[real].max()))
        return worst
    wanted = _of_packed(name)
    for rows, length in ROWS.values() if which is None else [ROWS[which]]:
        found = places([np.asarray(x) for x in served(*arrays(batch_of(rows, length)))], rows)
        for i, both in found.items():
            for one, other in zip(both, wanted[i], strict=True):
                assert one.shape == other.shape
                worst = max(worst, float(np.abs(one - other).max()))
    return worst


@functools.cache
def _of_packed(name: str) -> dict[int, list[np.ndarray]]:
    _, _, apply = made(name)
    return places(probabilities(apply(batch_of(*PACKED))), PACKED[0])


def places(outputs: Any, rows: list[list[int]]) -> dict[int, list[np.ndarray]]:
    """What was said of each conversation."""
    found = {}
    for b, row in enumerate(rows):
        start = 0
        for i in row:
            end = start + len(CONVERSATIONS[i])
            found[i] = [x[b, start:end] for x in outputs]
            start = end
    return found
