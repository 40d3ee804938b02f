"""Differential attention on TPU, both maps in one fused pass, forward and backward."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention import tpu_blocks, tpu_rows
from emojax.ops.diff_attention.blocks import Blocks, tuned
from emojax.ops.diff_attention.fused import attend
from emojax.ops.diff_attention.problem import Operands, Options
from emojax.ops.diff_attention.tpu_layout import LANES, Call
from emojax.ops.target import target


def pallas_tpu(
    x: Operands, options: Options, *, interpret: Any = False, blocks: Blocks | None = None
) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`.

    Raises:
      NotImplementedError: keys that are not shown, a dtype that the kernel does not compute with.
    """
    if x.shown is not None:
        raise NotImplementedError("pallas_tpu shows every key to those who see its column")
    if x.q.dtype not in (jnp.float32, jnp.bfloat16):
        raise NotImplementedError(f"pallas_tpu computes with fp32 and bf16, not with {x.q.dtype}")
    blocks = blocks or Blocks(**tuned("pallas_tpu", target()[1], x.k.shape[1]))
    query_block = min(blocks.query, _whole(x.q))
    whole = _whole(x.k)
    # Whole rows share work between the maps; but with a window most of a long row is not needed.
    rows = whole <= blocks.whole_row and (
        options.window is None or whole <= max(blocks.key, 4 * options.window)
    )
    call = Call.of(x, options, query_block, whole if rows else blocks.key, interpret)
    return attend(x, call, tpu_rows if rows else tpu_blocks)


def _whole(y: Array) -> int:
    """Columns of a row, filled up."""
    return y.shape[1] + -y.shape[1] % LANES
