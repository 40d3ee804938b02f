"""The differential-attention operator, one function for every variant."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.ops.diff_attention.reference import reference
from emojax.ops.masks import visible
from emojax.ops.rows import by_row, of_batch

Implementation = Literal["auto", "xla", "reference"]


def differential_attention(
    q: Float[Array, "B L H d"],
    k: Float[Array, "B L H d"],
    v: Float[Array, "B L H e"],
    lam: Array | None = None,
    *,
    q2: Float[Array, "B L H d"] | None = None,
    k2: Float[Array, "B L H d"] | None = None,
    segment: Int[Array, "B L"],
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    drop_rate: float = 0.0,
    key: Array | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B L H e"]:
    """softmax(s q k^T + M) v - lam softmax(s q2 k2^T + M) v.

    Variants: `temporal` (ReDiFu, arXiv:2603.25752) leaves out `q2` and `k2`, and the second map is
    that of keys moved one step on inside their conversation; `dual` (Diff Transformer,
    arXiv:2410.05258) and `v2` give both; plain attention leaves out `lam`.

    Args:
      lam: scalar, [H] or [B, L, H] (of the query).
      segment: conversation of each column, 0 for padding. Columns of one conversation attend to
        one another alone; padding gets zeros and zero gradients.
      causal: never attend to a later column.
      window: reach in columns, None for all.
      scale: s; None is d^-1/2.
      drop_rate, key: dropout of the combined map; none without a key.
      implementation: "reference" stores both maps for the backward pass, "xla" recomputes them.

    Raises:
      ValueError: of `q2` and `k2` only one is given, or either without `lam`.
    """
    if (q2 is None) != (k2 is None) or (q2 is not None and lam is None):
        raise ValueError("a second map needs q2, k2 and lam together")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    mask = visible(segment, causal=causal, window=window)
    attend: Callable[..., Array] = functools.partial(reference, scale=scale, drop_rate=drop_rate)
    lam = None if lam is None else jnp.broadcast_to(lam, q.shape[:3])

    def rows(*arrays: Array | None) -> Array:
        *given, row_key = arrays
        return attend(*given, key=row_key)

    recompute = implementation != "reference"
    return by_row(of_batch(rows), q, k, v, lam, q2, k2, segment, mask, key=key, recompute=recompute)
