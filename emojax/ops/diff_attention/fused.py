"""Differential attention by a platform's fused kernels: the two passes around them."""

from __future__ import annotations

import functools
from types import ModuleType

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from emojax.ops.diff_attention.kernels import Division, Given, Saved
from emojax.ops.diff_attention.problem import Operands


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(x: Operands, division: Division, kernels: ModuleType) -> Float[Array, "B I H e"]:
    """See `api.differential_attention`.

    Args:
      kernels: the platform's module with `forward(operands, division)`, which returns what is found
        and a `Saved`, and `backward(operands, given, division)`, which returns `Gradients`.
    """
    return _forward(x, division, kernels)[0]


def _forward(x: Operands, division: Division, kernels: ModuleType) -> tuple[Array, tuple]:
    found, saved = kernels.forward(division.lay_out(x), division)
    like = jax.ShapeDtypeStruct((*x.q.shape[:3], x.v.shape[-1]), x.v.dtype)
    return division.restore(found, like), (x, saved)


def _backward(
    division: Division, kernels: ModuleType, kept: tuple[Operands, Saved], gradient: Array
) -> tuple[Operands]:
    x, saved = kept
    laid, gradient = division.lay_out(x), division.lay_out_query(gradient)
    # The sum over keys of a map times its derivative is what it found times the gradient.
    common = [division.total(gradient.astype(jnp.float32) * y) for y in saved.results]
    if len(common) == 2:
        common[0] += laid.lam * common[1]
    common = [division.options.keep_rate * y for y in common]
    given = Given(gradient, saved.peaks, saved.factors, common)
    d = kernels.backward(laid, given, division)
    q, k = [division.restore(y, x.q) for y in d.q], [division.restore(y, x.k) for y in d.k]
    two = x.q2 is not None
    return (
        x.gradients(
            q=q[0], k=k[0], v=division.restore(d.v, x.v),
            lam=division.restore_vector(d.lam, x.lam) if two else None,
            q2=q[1] if two else None, k2=k[1] if two else None,
        ),
    )  # fmt: skip


attend.defvjp(_forward, _backward)
