"""Graph convolution over utterances whose edges tell speakers and past from future."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.layers import Dropout, dense
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.ops.masks import RELATIONS
from emojax.ops.random import Rate
from emojax.ops.windows import Windows


class SpeakerGraph(nn.Module):
    """Both layers of DialogueGCN (arXiv:1908.11540, equations 3 to 5).

    Edges to the utterances within the window weigh softmax_j(x_i W_e x_j). The first layer sums
    what they bring by relation, each through a map of its own; the second sums it all alike:

      h_i = relu(sum_r W_r sum_j:code_ij=r a_ij x_j + W_0 x_i)
      y_i = relu(W sum_j a_ij h_j + W_0' h_i)

    The published second layer sums without a_ij, which grows with the window; relations here are
    same or other speaker, past or future, whatever the number of speakers.
    """

    window: int
    causal: bool
    drop_rate: Rate
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        speaker: Int[Array, "B L"],
        segment: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]:
        width, length = x.shape[-1], x.shape[1]
        windows = Windows.of(length, length, self.window, causal=self.causal)
        codes = jax.vmap(windows.codes)(speaker, segment)
        reached = jax.vmap(lambda y: windows.reached(y, 0))

        query = jax.vmap(windows.split)(x)
        key = reached(dense(width, self.dtype, "edge", use_bias=False)(x))
        score = jnp.einsum("bnqd,bnwd->bnqw", query, key, preferred_element_type=jnp.float32)
        weight = masked_softmax(score * width**-0.5, codes > 0).astype(self.dtype)
        drop = Dropout(self.drop_rate)

        relation = nn.one_hot(codes, RELATIONS, dtype=self.dtype)[..., 1:]
        found = jnp.einsum("bnqw,bnqwr,bnwd->bnqrd", weight, relation, reached(x))
        found = jax.vmap(windows.join)(found.reshape(*found.shape[:3], -1))
        own = dense(width, self.dtype, "own_1")(x)
        h = drop(nn.relu(dense(width, self.dtype, "relations", use_bias=False)(found) + own))

        found = jax.vmap(windows.join)(jnp.einsum("bnqw,bnwd->bnqd", weight, reached(h)))
        own = dense(width, self.dtype, "own_2")(h)
        return drop(nn.relu(dense(width, self.dtype, "neighbours", use_bias=False)(found) + own))
