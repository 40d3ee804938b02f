"""The temporal differential attention exactly as the published implementation computes it.

Its second map uses keys rolled by one step around the padded row while the key mask stays put, and
lambda scales the whole difference. Kept apart from `api`, whose operator has neither defect.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.ops.random import dropout
from emojax.ops.rows import by_row


def published_attention(
    q: Float[Array, "B L H d"],
    k: Float[Array, "B L H d"],
    v: Float[Array, "B L H d"],
    mask: Bool[Array, "B L"],
    extent: Int[Array, " B"],
    *,
    scale: float,
    drop_rate: float = 0.0,
    key: Array | None = None,
) -> Float[Array, "B L H d"]:
    """drop(softmax(s q k^T) - softmax(s q roll(k)^T)) v; the caller multiplies by lambda.

    Keys roll around the first `extent` columns of a row.

    The scores of rolled keys are the rolled scores, and exponentials roll as well, so the second
    map costs no product and no exponential of its own. The two maps are recomputed in the backward
    pass rather than stored.
    """

    def attend(
        q: Array, k: Array, v: Array, mask: Array, extent: Array, key: Array | None
    ) -> Array:
        # The key that rolls into column 0 is put where rolling all L columns takes it from.
        last = jnp.take_along_axis(k, extent[:, None, None, None] - 1, axis=1)
        k = jnp.concatenate([k[:, :-1], last], axis=1)
        scores = jnp.einsum("bihd,bjhd->bhij", q, k, preferred_element_type=jnp.float32) * scale
        real = mask[:, None, None, :]
        # Column j feeds the first map if j is real and the second if j + 1 (around the row) is.
        used = real | jnp.roll(real, -1, axis=-1)
        peak = jnp.max(jnp.where(used, scores, -jnp.inf), axis=-1, keepdims=True)
        peak = jax.lax.stop_gradient(jnp.where(jnp.isfinite(peak), peak, 0.0))
        first = jnp.exp(jnp.where(used, scores - peak, -jnp.inf))
        second = jnp.where(real, jnp.roll(first, 1, axis=-1), 0.0)
        first = jnp.where(real, first, 0.0)
        tiny = jnp.finfo(jnp.float32).tiny
        difference = first / jnp.maximum(first.sum(-1, keepdims=True), tiny)
        difference -= second / jnp.maximum(second.sum(-1, keepdims=True), tiny)
        return jnp.einsum("bhij,bjhd->bihd", dropout(difference, drop_rate, key).astype(v.dtype), v)

    return by_row(attend, q, k, v, mask, extent, key=key)
