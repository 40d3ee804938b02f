"""Differential attention on GPU, both maps in one fused pass, forward and backward (Triton)."""

from __future__ import annotations

import functools
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention import gpu_blocks, gpu_rows
from emojax.ops.diff_attention.blocks import Blocks, tuned
from emojax.ops.diff_attention.gpu_layout import Call, lay_out, power_of_two
from emojax.ops.diff_attention.kernels import Inputs
from emojax.ops.diff_attention.problem import Operands, Options
from emojax.ops.target import target

_WIDEST = 256
"""Head width beyond which a block of queries no longer fits into a program's registers."""


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
    return _attend(x, options, blocks, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _attend(x: Operands, options: Options, blocks: Blocks, interpret: bool) -> Array:
    return _forward(x, options, blocks, interpret)[0]


def _prepare(
    x: Operands, options: Options, blocks: Blocks, interpret: bool
) -> tuple[Inputs, Call, ModuleType]:
    length, total = power_of_two(x.q.shape[1]), power_of_two(x.k.shape[1])
    rows = total <= blocks.whole_row
    query_block = min(blocks.query, length)
    key_block = total if rows else min(blocks.key, total)
    inputs = lay_out(x, query_block, key_block)
    call = Call(
        options=options,
        rows=x.q.shape[0],
        shared=x.k.shape[2],
        group=x.q.shape[2] // x.k.shape[2],
        queries=inputs.q.shape[1],
        keys=inputs.k.shape[1],
        query_block=query_block,
        key_block=key_block,
        interpret=interpret,
    )
    return inputs, call, gpu_rows if rows else gpu_blocks


def _forward(x: Operands, options: Options, blocks: Blocks, interpret: bool) -> tuple[Array, tuple]:
    inputs, call, kernels = _prepare(x, options, blocks, interpret)
    found, kept = kernels.forward(inputs, call)
    return found[:, : x.q.shape[1], :, : x.v.shape[-1]], (x, kept)


def _backward(
    options: Options, blocks: Blocks, interpret: bool, saved: tuple, gradient: Array
) -> tuple[Operands]:
    x, kept = saved
    inputs, call, kernels = _prepare(x, options, blocks, interpret)
    shape = *inputs.q.shape[:3], inputs.v.shape[-1]
    spare = [(0, new - old) for new, old in zip(shape, gradient.shape, strict=True)]
    d = kernels.backward(inputs._replace(gradient=jnp.pad(gradient, spare)), kept, call)

    def cut(y: Array, like: Array) -> Array:
        return y[:, : like.shape[1], :, : like.shape[3]]

    two = x.q2 is not None
    return (
        x.gradients(
            q=cut(d.q[0], x.q), k=cut(d.k[0], x.k), v=cut(d.v, x.v),
            lam=d.lam[:, :, : x.q.shape[1]].transpose(0, 2, 1) if two else None,
            q2=cut(d.q[1], x.q) if two else None, k2=cut(d.k[1], x.k) if two else None,
        ),
    )  # fmt: skip


_attend.defvjp(_forward, _backward)
