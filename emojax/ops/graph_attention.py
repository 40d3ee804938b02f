"""Attention over relation graphs whose logits are sums, so that nothing of size L x L x D exists.

A graph-attention layer scores an edge by a^T [h_i ; h_j ; r_ij]. Written as
a_1^T h_i + a_2^T h_j + a_3^T r_ij it is two matrix-vector products and a table of one scalar per
relation; only the B x L x L logits themselves are stored.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.random import dropout

_NO_EDGE = -9e15


def relation_gat(
    h: Float[Array, "B L H D"],
    source: Float[Array, "H D"],
    target: Float[Array, "H D"],
    relation: Float[Array, "H R"],
    edges: Int[Array, "B L L"],
    within: Bool[Array, "B L"],
    *,
    drop_rate: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "B L H D"]:
    """One graph-attention layer, H heads at once (ReDiFu, the published relation GAT).

    e_ij = LeakyReLU_.2(source . h_i + target . h_j + relation[edges_ij]), softmax over the j that
    share an edge with i; a row without any edge attends uniformly to all columns `within`, as the
    published code does to its padded length. Logits and softmax are fp32 whatever the dtype of `h`.
    """

    @jax.checkpoint  # What has size L x L is cheaply made again in the backward pass.
    def attend(h: Array, source: Array, target: Array, relation: Array, key: Any) -> Array:
        score_i = jnp.einsum("blhd,hd->bhl", h, source, preferred_element_type=jnp.float32)
        score_j = jnp.einsum("blhd,hd->bhl", h, target, preferred_element_type=jnp.float32)
        # A one-hot product: XLA's gather has a scatter as its gradient, which is serial on CPU.
        table = jnp.moveaxis(jax.nn.one_hot(edges, relation.shape[1]) @ relation.T, -1, 1)
        logits = jax.nn.leaky_relu(score_i[..., :, None] + score_j[..., None, :] + table, 0.2)
        absent = jnp.where(within, _NO_EDGE, -jnp.inf)[:, None, None, :]
        weights = jax.nn.softmax(jnp.where(edges[:, None] > 0, logits, absent), axis=-1)
        weights = dropout(weights, drop_rate, key).astype(h.dtype)
        return jnp.einsum("bhij,bjhd->bihd", weights, h)

    return attend(h, source, target, relation, key)
