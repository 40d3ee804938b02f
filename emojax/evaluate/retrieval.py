"""How well one modality of an utterance finds the others in a space that they share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from emojax.data.pipeline import Batches
from emojax.dist.compiler import compiler_options
from emojax.dist.mesh import put_batch
from emojax.dist.rules import placement, replicated
from emojax.nn.sharding import sharded
from emojax.types import MODALITIES, Batch

KS = (1, 5, 10)
_TOGETHER = 1024
"""Queries whose scores are held at once."""


@dataclasses.dataclass(frozen=True)
class Found:
    """Of the utterances that have both modalities, how often one finds the other.

    Attributes:
      query, answer: the modalities.
      utterances: how many have both, N; each is looked for among all of them.
      recall: by k, the share of queries whose own answer is among the k nearest. Of equally near
        ones it takes the middle place.
      chance: by k, of who guesses: k / N.
      same_label: by k, the share of labelled queries' k nearest answers, other than their own, that
        have the query's label; None without labels.
      same_label_chance: the same of who guesses; None without labels.
    """

    query: str
    answer: str
    utterances: int
    recall: dict[int, float]
    chance: dict[int, float]
    same_label: dict[int, float] | None
    same_label_chance: float | None


def retrieval(
    embedding: np.ndarray, present: np.ndarray, label: np.ndarray, ks: Sequence[int] = KS
) -> list[Found]:
    """Every ordered pair of modalities of which an utterance has both.

    Args:
      embedding: f32[N, M, E]; the larger a product, the nearer.
      present: bool[N, M].
      label: i32[N], -1 where unknown.
    """
    found = []
    for m, query in enumerate(MODALITIES):
        for n, answer in enumerate(MODALITIES):
            both = present[:, m] & present[:, n]
            if m != n and both.any():
                pair = _pair(embedding[both, m], embedding[both, n], label[both], tuple(ks))
                found.append(Found(query, answer, int(both.sum()), *pair))
    return found


def _pair(query: np.ndarray, answer: np.ndarray, label: np.ndarray, ks: tuple[int, ...]) -> Any:
    N = len(query)
    place = np.empty(N)
    alike = {k: [0, 0] for k in ks}
    for start in range(0, N, _TOGETHER):
        mine = np.arange(start, min(start + _TOGETHER, N))
        scores = query[mine] @ answer.T
        own = scores[np.arange(len(mine)), mine][:, None]
        place[mine] = (scores > own).sum(1) + ((scores == own).sum(1) - 1) / 2
        scores[np.arange(len(mine)), mine] = -np.inf
        labelled = label[mine] >= 0
        nearest = np.argsort(-scores[labelled], axis=1, kind="stable")[:, : min(max(ks), N - 1)]
        hit = label[nearest] == label[mine][labelled][:, None]
        for k in ks:
            alike[k][0] += int(hit[:, :k].sum())
            alike[k][1] += hit[:, :k].size
    recall = {k: float((place < k).mean()) for k in ks}
    chance = {k: min(k / N, 1.0) for k in ks}
    if not alike[ks[0]][1]:
        return recall, chance, None, None
    count = np.bincount(label[label >= 0])
    guess = float((count * (count - 1)).sum() / (count.sum() * (N - 1)))
    return recall, chance, {k: hits / total for k, (hits, total) in alike.items()}, guess


def find(
    model: nn.Module, variables: Any, batches: Batches, mesh: Mesh | None = None
) -> list[Found]:
    """`retrieval` among all utterances of a split.

    Args:
      model: one with a shared space.
      mesh: as for `make_predict`.
    """
    embed = _make_embed(model, mesh)
    embedding, present, label = [], [], []
    for packed in batches.one_epoch():
        batch = put_batch(packed.batch, packed.held, len(packed.rows), mesh)
        where, there = jax.device_get(embed(variables, batch))
        for index, row, columns in packed.members():
            embedding.append(where[row, columns])
            present.append(there[row, columns])
            label.append(batches.records[index].label)
    return retrieval(np.concatenate(embedding), np.concatenate(present), np.concatenate(label))


@functools.lru_cache(maxsize=8)
def _make_embed(model: nn.Module, mesh: Mesh | None) -> Any:
    def embed(variables: Any, batch: Batch) -> Any:
        with sharded(None if mesh is None else placement(mesh)):
            output: Any = model.apply(variables, batch)
            return output.space.embedding, output.space.present

    result = None if mesh is None else replicated(mesh)
    return jax.jit(embed, out_shardings=result, compiler_options=compiler_options())
