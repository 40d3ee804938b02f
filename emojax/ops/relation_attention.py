"""Attention over a graph of utterance x modality nodes whose edges carry a relation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

from emojax.ops.masks import SELF
from emojax.ops.random import keep_pair, seeds
from emojax.ops.rows import by_row
from emojax.ops.windows import Windows


def relation_attention(
    q: Float[Array, "B I M H d"],
    k: Float[Array, "B J M H d"],
    v: Float[Array, "B J M H d"],
    relation: Float[Array, "H M M R"],
    speaker: Int[Array, "B J"],
    segment: Int[Array, "B J"],
    present: Bool[Array, "B J M"],
    *,
    window: int,
    causal: bool = False,
    cross_modal: str = "window",
    first: int | Int[Array, ""] = 0,
    drop_rate: float = 0.0,
    key: Array | None = None,
    seed: UInt32[Array, "B H"] | None = None,
) -> Float[Array, "B I M H d"]:
    """Node (i, m) attends to nodes (j, n): logit q_im . k_jn / sqrt d + relation[m, n, code_ij].

    As in the published relation GAT the relation adds a score to each edge; here there is one for
    every head, ordered pair of modalities and relation code (`ops.masks`), so a head can follow one
    relation. Maps are fp32, hold what lies within the window alone, and are made again in the
    backward pass.

    Args:
      relation: score of relation R between a node of modality m (first) and one of n.
      segment: conversation of each column, 0 for padding; edges stay within a conversation.
      present: a missing node is seen by nobody; a node that sees nobody gets zeros.
      window: reach of edges in columns.
      causal: no edges to later columns.
      cross_modal: edges between different modalities: "none", "utterance" (i = j only) or
        "window" (as within a modality).
      first: column of query 0, for callers that hold I < J queries of a row.
      drop_rate, key, seed: dropout of the map, as in `differential_attention`.
    """
    modalities, heads, width = q.shape[2:]
    windows = Windows.of(q.shape[1], k.shape[1], window, causal=causal)
    if drop_rate == 0:
        seed = None
    elif seed is None and key is not None:
        seed = seeds(key, len(q), heads)
    same = jnp.eye(modalities, dtype=bool)[:, :, None, None, None]

    # A block of the map for each pair of modalities, queries and keys repeated across blocks:
    # every product below and in the backward pass is then a batch of plain matrix products, and
    # no map is ever transposed.
    def pairs(x: Array, axis: int) -> Array:
        """[n, columns, M, H, d] as [H, M, M, n, columns, d]."""
        x = jnp.expand_dims(x.transpose(3, 2, 0, 1, 4), axis)
        return jnp.broadcast_to(x, (heads, modalities, modalities, *x.shape[3:]))

    def attend(
        q: Array, k: Array, v: Array, speaker: Array, segment: Array, present: Array, seed: Any,
        _: None,
    ) -> Array:  # fmt: skip
        codes = windows.codes(speaker, segment, first)
        reach = {"none": jnp.zeros_like(codes, bool), "utterance": codes == SELF}
        edge = jnp.where(same, codes > 0, reach.get(cross_modal, codes > 0))
        edge &= jnp.moveaxis(windows.reached(present, first), 2, 0)[None, :, :, None]
        kind = jax.nn.one_hot(codes, relation.shape[-1], axis=0)
        scores = jnp.einsum(
            "hmnbid,hmnbjd->hmnbij",
            pairs(windows.split(q) * width**-0.5, 2), pairs(windows.reached(k, first), 1),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        scores += jnp.einsum("hmnr,rbij->hmnbij", relation, kind)
        scores = jnp.where(edge, scores, -jnp.inf)
        peak = jax.lax.stop_gradient(scores.max((2, 5), keepdims=True))
        weights = jnp.exp(scores - jnp.where(jnp.isfinite(peak), peak, 0.0))
        total = weights.sum(-1).sum(2)[..., None]
        if seed is not None:
            weights = jnp.where(kept(seed), weights / (1 - drop_rate), 0)
        parts = jnp.einsum(
            "hmnbij,hmnbjd->hmnbid", weights.astype(v.dtype), pairs(windows.reached(v, first), 1),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        # Not a tiny number: the gradient of who sees nobody would be 0 / tiny^2.
        found = parts.sum(2) / jnp.where(total > 0, total, 1.0)
        return windows.join(found.transpose(2, 3, 1, 0, 4)).astype(v.dtype)

    def kept(seed: Array) -> Array:
        """Nodes are counted utterance by utterance, the modalities of each in turn."""
        query, key = (modalities * x for x in windows.columns(first))
        modality = jnp.arange(modalities, dtype=jnp.int32)
        return keep_pair(
            seed[:, None, None, None, None, None],
            query + modality[:, None, None, None, None], key + modality[:, None, None, None],
            drop_rate,
        )  # fmt: skip

    return by_row(attend, q, k, v, speaker, segment, present, seed)
