"""Differential attention on TPU, both maps in one fused pass, forward and backward."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention import tpu_blocks, tpu_rows
from emojax.ops.diff_attention.blocks import Blocks, tuned
from emojax.ops.diff_attention.kernels import Inputs, fill
from emojax.ops.diff_attention.problem import Operands, Options
from emojax.ops.diff_attention.tpu_layout import LANES, Call, lay_out
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
    return _attend(x, options, blocks, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _attend(x: Operands, options: Options, blocks: Blocks, interpret: Any) -> Array:
    return _forward(x, options, blocks, interpret)[0]


def _prepare(
    x: Operands, options: Options, blocks: Blocks, interpret: Any
) -> tuple[Inputs, Call, ModuleType]:
    length, total = x.q.shape[1], x.k.shape[1]
    query_block = min(blocks.query, length + -length % LANES)
    whole = total + -total % LANES
    # Whole rows share work between the maps; but with a window most of a long row is not needed.
    rows = whole <= blocks.whole_row and (
        options.window is None or whole <= max(blocks.key, 4 * options.window)
    )
    key_block = whole if rows else blocks.key
    inputs = lay_out(x, query_block, key_block)
    call = Call(
        options=options,
        rows=x.q.shape[0],
        shared=x.k.shape[2],
        group=x.q.shape[2] // x.k.shape[2],
        queries=inputs.q.shape[2],
        keys=inputs.k.shape[2],
        query_block=query_block,
        key_block=key_block,
        interpret=interpret,
    )
    return inputs, call, tpu_rows if rows else tpu_blocks


def _forward(x: Operands, options: Options, blocks: Blocks, interpret: Any) -> tuple[Array, tuple]:
    inputs, call, kernels = _prepare(x, options, blocks, interpret)
    found, saved = kernels.forward(inputs, call)
    found = found[:, :, : x.q.shape[1]].transpose(0, 2, 1, 3)
    return found, (x, saved)


def _backward(
    options: Options, blocks: Blocks, interpret: Any, saved: tuple, gradient: Array
) -> tuple[Operands]:
    x, kept = saved
    inputs, call, kernels = _prepare(x, options, blocks, interpret)
    gradient = fill(gradient.transpose(0, 2, 1, 3), 2, call.query_block)
    d = kernels.backward(inputs._replace(gradient=gradient), kept, call)

    def back(y: Array, length: int) -> Array:
        return y[:, :, :length].transpose(0, 2, 1, 3)

    queries, keys = x.q.shape[1], x.k.shape[1]
    q, k = [back(y, queries) for y in d.q], [back(y, keys) for y in d.k]
    two = x.q2 is not None
    return (
        x.gradients(
            q=q[0], k=k[0], v=back(d.v, keys),
            lam=d.lam[:, :, 0, :queries].transpose(0, 2, 1) if two else None,
            q2=q[1] if two else None, k2=k[1] if two else None,
        ),
    )  # fmt: skip


_attend.defvjp(_forward, _backward)
