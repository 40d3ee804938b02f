"""Attention over a graph of utterance x modality nodes whose edges carry a relation."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.masks import SELF
from emojax.ops.random import dropout
from emojax.ops.rows import by_row, of_batch


def relation_attention(
    q: Float[Array, "B L M H d"],
    k: Float[Array, "B L M H d"],
    v: Float[Array, "B L M H d"],
    relation: Float[Array, "H M M R"],
    codes: Int[Array, "B L L"],
    present: Bool[Array, "B L M"],
    *,
    cross_modal: str = "window",
    drop_rate: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "B L M H d"]:
    """Node (i, m) attends to nodes (j, n): logit q_im . k_jn / sqrt d + relation[m, n, code_ij].

    As in the published relation GAT the relation adds a score to each edge; here there is one for
    every head, ordered pair of modalities and relation code, so a head can follow one relation.
    Maps are fp32 and recomputed in the backward pass.

    Args:
      relation: score of relation R between a node of modality m (first) and one of n.
      codes: relation of utterance i to j (`ops.masks`), 0 for no edge.
      present: a missing node is seen by nobody; a node that sees nobody gets zeros.
      cross_modal: edges between different modalities: "none", "utterance" (i = j only) or
        "window" (wherever `codes` has an edge).
      drop_rate, key: dropout of the map; none without a key.
    """
    modalities, width = q.shape[2], q.shape[-1]
    reach = {"none": jnp.zeros_like(codes, bool), "utterance": codes == SELF, "window": codes > 0}
    same = jnp.eye(modalities, dtype=bool)[:, :, None, None]
    edge = jnp.where(same, (codes > 0)[:, None, None], reach[cross_modal][:, None, None])
    edge = (edge & jnp.moveaxis(present, 1, 2)[:, None, :, None, :])[:, None]
    kind = jax.nn.one_hot(codes, relation.shape[-1], axis=1)

    # A block of the map for each pair of modalities, queries and keys repeated across blocks:
    # every product below and in the backward pass is then a batch of plain matrix products, and
    # no map is ever transposed.
    def blocks(x: Array, axis: int) -> Array:
        shape = (x.shape[0], x.shape[3], modalities, modalities, x.shape[1], width)
        return jnp.broadcast_to(jnp.expand_dims(x.transpose(0, 3, 2, 1, 4), axis), shape)

    def attend(q: Array, k: Array, v: Array, edge: Array, kind: Array, key: Any) -> Array:
        scores = jnp.einsum(
            "bhmnid,bhmnjd->bhmnij", blocks(q * width**-0.5, 3), blocks(k, 2),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        each = jnp.broadcast_to(relation, (len(kind), *relation.shape))
        scores += jnp.einsum("bhmnr,brij->bhmnij", each, kind)
        scores = jnp.where(edge, scores, -jnp.inf)
        peak = jax.lax.stop_gradient(scores.max((3, 5), keepdims=True))
        weights = jnp.exp(scores - jnp.where(jnp.isfinite(peak), peak, 0.0))
        total = weights.sum(-1).sum(3)[..., None]
        weights = dropout(weights, drop_rate, key).astype(v.dtype)
        parts = jnp.einsum(
            "bhmnij,bhmnjd->bhmnid", weights, blocks(v, 2), preferred_element_type=jnp.float32
        )
        # Not a tiny number: the gradient of who sees nobody would be 0 / tiny^2.
        found = parts.sum(3) / jnp.where(total > 0, total, 1.0)
        return found.transpose(0, 3, 2, 1, 4).astype(v.dtype)

    return by_row(of_batch(attend), q, k, v, edge, kind, key=key)
