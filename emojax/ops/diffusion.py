"""Diffusion of a signal along an attention map."""

from __future__ import annotations

from collections.abc import Callable

from jax import Array
from jaxtyping import Float


def diffuse(
    attend: Callable[[Array], Array],
    source: Float[Array, "B I H d"],
    restart: Float[Array, " H"],
    steps: int,
) -> Float[Array, "B I H d"]:
    """z_K of z_{k+1} = (1 - g) T z_k + g z_0 with z_0 the source and g the restart of each head.

    With T row-stochastic this is personalised PageRank cut off after K steps: far utterances reach
    an utterance through chains of attention, and g bounds how far (ReDiFu, text-guided diffusion).

    Args:
      attend: z to T z, so that T need never exist.
    """
    restart = restart[:, None].astype(source.dtype)
    z = source
    for _ in range(steps):
        z = (1 - restart) * attend(z) + restart * source
    return z
