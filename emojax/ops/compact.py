"""Real utterances without their padding, for the layers that treat each utterance alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def compact(
    x: Float[Array, "B L D"], mask: Bool[Array, "B L"], capacity: int
) -> Float[Array, "N D"]:
    """The rows of `x` where `mask` holds, in order, then zeros up to N = `capacity` rows.

    Rows beyond the capacity are lost: the caller counts before it chooses.
    """
    flat = x.reshape(-1, x.shape[-1])
    (index,) = jnp.nonzero(mask.ravel(), size=capacity, fill_value=flat.shape[0])
    return flat.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def expand(y: Float[Array, "N D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
    """The inverse of `compact`: rows back in their places, zeros elsewhere."""
    slot = jnp.cumsum(mask.ravel()).reshape(mask.shape) - 1
    return jnp.where(mask[..., None], y.at[slot].get(mode="clip"), 0)


# Each is the other's transpose. Said here because the derivative of a gather is a scatter, which
# runs one row at a time on CPU.
def _compact_forward(x: Array, mask: Array, capacity: int) -> tuple[Array, Array]:
    return compact(x, mask, capacity), mask


def _compact_backward(capacity: int, mask: Array, gradient: Array) -> tuple[Array, None]:
    return expand(gradient, mask), None


def _expand_forward(y: Array, mask: Array) -> tuple[Array, tuple[Array, Array]]:
    return expand(y, mask), (y, mask)


def _expand_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, None]:
    y, mask = residuals
    return compact(gradient, mask, y.shape[0]), None


compact.defvjp(_compact_forward, _compact_backward)
expand.defvjp(_expand_forward, _expand_backward)
