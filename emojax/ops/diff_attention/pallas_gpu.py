"""Differential attention on GPU, both maps in one fused pass, forward and backward (Triton)."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention import gpu_blocks, gpu_rows
from emojax.ops.diff_attention.blocks import Blocks, tuned
from emojax.ops.diff_attention.fused import attend
from emojax.ops.diff_attention.gpu_layout import Call, power_of_two
from emojax.ops.diff_attention.problem import Operands, Options
from emojax.ops.target import target

_WIDEST = 256
"""Head width beyond which a block of queries no longer fits into a program's registers."""
_ROW_BYTES = 96 << 10
"""Keys and values of a whole row, beyond which the backward pass has no room left for what it
makes: an H100 lends a program 227 KiB, and rows of 128 KiB asked for 228."""


def pallas_gpu(
    x: Operands, options: Options, *, interpret: bool = False, blocks: Blocks | None = None
) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`.

    Raises:
      NotImplementedError: keys that are not shown, or a dtype or head width that the kernel does
        not compute with.
    """
    if x.shown is not None:
        raise NotImplementedError("pallas_gpu shows every key to those who see its column")
    if x.q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise NotImplementedError(f"pallas_gpu computes with fp32, bf16, fp16, not {x.q.dtype}")
    widest = max(x.q.shape[-1], x.v.shape[-1])
    if widest > _WIDEST:
        raise NotImplementedError(f"pallas_gpu takes heads up to {_WIDEST} wide, not {widest}")
    blocks = blocks or Blocks(**tuned("pallas_gpu", target()[1], x.k.shape[1]))
    length, total = power_of_two(x.q.shape[1]), power_of_two(x.k.shape[1])
    rows = total <= blocks.whole_row and total * _column_bytes(x) <= _ROW_BYTES
    query_block, key_block = min(blocks.query, length), total if rows else min(blocks.key, total)
    call = Call.of(x, options, query_block, key_block, interpret)
    return attend(x, call, gpu_rows if rows else gpu_blocks)


def _column_bytes(x: Operands) -> int:
    """Of one column's keys and values under one head, filled up as `gpu_layout` does."""
    held = [y for y in (x.k, x.k2, x.v) if y is not None]
    return sum(power_of_two(y.shape[-1]) for y in held) * x.v.dtype.itemsize
