"""The differential-attention operator, one function for every variant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, UInt32

from emojax.ops.diff_attention.problem import Operands, Options, unrolled
from emojax.ops.diff_attention.reference import reference
from emojax.ops.diff_attention.xla import xla
from emojax.ops.masks import spans
from emojax.ops.random import seeds
from emojax.ops.target import ANY, target

Implementation = Literal["auto", "reference", "xla", "pallas_tpu", "pallas_gpu"]

_PLATFORM = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
_ORDER = {"tpu": ("pallas_tpu", "xla"), "gpu": ("pallas_gpu", "xla")}


def differential_attention(
    q: Float[Array, "B I H d"],
    k: Float[Array, "B J K d"],
    v: Float[Array, "B J K e"],
    lam: float | Array | None = None,
    *,
    q2: Float[Array, "B I H d"] | None = None,
    k2: Float[Array, "B J K d"] | None = None,
    segment: Int[Array, "B J"],
    shown: Bool[Array, "B J"] | None = None,
    rolled: Int[Array, " B"] | None = None,
    first: int | Int[Array, ""] = 0,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    drop_rate: float = 0.0,
    key: Array | None = None,
    seed: UInt32[Array, "B H"] | None = None,
    implementation: Implementation = "auto",
    interpret: Any = False,
) -> Float[Array, "B I H e"]:
    """softmax(s q k^T + M) v - lam softmax(s q2 k2^T + M) v, scores and sums in fp32.

    Variants: `temporal` (ReDiFu, arXiv:2603.25752) leaves out `q2` and `k2`, and the second map is
    that of keys moved one step on inside their conversation; `dual` (Diff Transformer,
    arXiv:2410.05258) and `v2` give both; plain attention leaves out `lam`. What scales the first
    map as well scales the result, so it is left to the caller.

    Args:
      q, k, v: heads may share keys and values: head h reads those of h // (H / K).
      lam: scalar, [H] or [B, I, H] (of the query).
      segment: conversation of each column of the row, 0 for padding; a conversation's columns are
        contiguous. Columns of one conversation attend to one another alone; padding gets zeros and
        zero gradients.
      shown: a key that is not shown is seen by the query of its own column alone; None shows all.
      rolled: what ReDiFu's published code has for the `temporal` variant, defects included: keys
        roll by one around the first `rolled` columns of a row while the mask stays where it was,
        and padding looks at the row's conversation. A row is one conversation, from column 0 on.
      first: column of query 0, for callers that hold I < J queries of a row.
      causal: never attend to a later column.
      window: reach in columns, None for all.
      scale: s; None is d^-1/2.
      drop_rate, key: dropout of the combined map; none without a key.
      seed: in place of `key`, `ops.random.seeds` of the heads and rows at hand, for callers that
        hold a share of them.
      implementation: "reference" is the definition and stores both maps; "xla" recomputes them in
        the backward pass, block by block; "pallas_tpu" and "pallas_gpu" are fused kernels. "auto"
        takes the first that can serve, in the order kernel, "xla".
      interpret: run a kernel step by step on any device, to look for errors; or, for the TPU's,
        parameters of its interpreter.

    Raises:
      ValueError: of `q2` and `k2` only one is given, or either without `lam`; H is not a multiple
        of K; `rolled` without `lam`, or with what it does not go with.
      NotImplementedError: the `implementation` asked for cannot serve; the message says why.
    """
    if (q2 is None) != (k2 is None) or (q2 is not None and lam is None):
        raise ValueError("a second map needs q2, k2 and lam together")
    if rolled is not None and (
        lam is None
        or causal
        or any(y is not None for y in (q2, window, shown))
        or q.shape[1] != k.shape[1]
    ):
        raise ValueError("rolled keys need lam and whole rows, without q2, causal, window, shown")
    heads, shared = q.shape[2], k.shape[2]
    if heads % shared:
        raise ValueError(f"{heads} query heads cannot share {shared} key heads evenly")
    start, low, high = (
        jax.lax.dynamic_slice_in_dim(x, first, q.shape[1], axis=1)
        for x in spans(segment, causal=causal, window=window)
    )
    if rolled is not None:
        low, high = jnp.zeros_like(low), jnp.broadcast_to(high.max(1, keepdims=True), high.shape)
    low2 = low
    if lam is not None:
        lam = jnp.broadcast_to(lam, q.shape[:3]).astype(jnp.float32)
        if q2 is None and rolled is None:
            # A conversation's first column has no key to receive.
            q2, k2 = q, jnp.pad(k[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
            low2 = jnp.minimum(jnp.maximum(low, start + 1), high)
    if drop_rate == 0:
        seed = None
    elif seed is None and key is not None:
        seed = seeds(key, q.shape[0], heads)
    column = jnp.full(q.shape[0], first, jnp.int32)
    operands = Operands(q, k, v, lam, q2, k2, low, high, low2, column, seed, shown, rolled)
    options = Options(
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        drop_rate=0.0 if seed is None else drop_rate,
        window=window,
        causal=causal,
    )
    return _serve(operands, options, implementation, interpret)


def _serve(x: Operands, options: Options, name: Implementation, interpret: Any) -> Array:
    platform, _ = target()
    if name == "auto" and platform == ANY:
        name = "reference"
    elif name == "auto":
        for each in _ORDER.get(platform, ("xla",))[:-1]:
            try:
                return _kernel(each)(unrolled(x), options, interpret=interpret)
            except NotImplementedError:
                continue
        return xla(x, options)
    if name == "reference":
        return reference(unrolled(x), options)
    if name == "xla":
        return xla(x, options)
    if platform != _PLATFORM[name] and not interpret:
        raise NotImplementedError(
            f"{name} runs on a {_PLATFORM[name]}, and this program is for a {platform}; "
            'choose implementation="auto", or interpret=True to look for errors'
        )
    return _kernel(name)(unrolled(x), options, interpret=interpret)


def _kernel(name: str) -> Callable[..., Array]:
    # Pallas takes half a second to import, and most processes on a CPU never need it.
    if name == "pallas_tpu":
        from emojax.ops.diff_attention.pallas_tpu import pallas_tpu

        return pallas_tpu
    from emojax.ops.diff_attention.pallas_gpu import pallas_gpu

    return pallas_gpu
