"""GPU kernels for rows whose keys fit into a program's registers.

A program sees every key of its queries. So it normalises both maps, combines them and multiplies by
the values once, and one program computes all derivatives of a key head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from emojax.ops.diff_attention.gpu_layout import Call
from emojax.ops.diff_attention.kernels import Given, Gradients, Saved, dot
from emojax.ops.diff_attention.problem import FLOOR, Operands


def forward(x: Operands, call: Call) -> tuple[Array, Saved]:
    """What is found, [B, I, H, e]; the peaks and the factors of each map, f32[B, H, I]."""

    def kernel(x: Operands, given: None, outputs: Any) -> None:
        found, peaks, factors = outputs
        member, block = pl.program_id(2), pl.program_id(3)
        here = call.at_query(block)
        high = x.high[here]
        combined: Any = None
        for number, q, k, low in x.maps():
            scores = call.scores(q[here, member], k[...], low[here], high, 0)
            peak = jnp.maximum(scores.max(1), FLOOR)
            e = jnp.exp(scores - peak[:, None])
            total = e.sum(1)
            factor = jnp.where(total > 0, 1 / (total * call.options.keep_rate), 0)
            peaks[number][member, here], factors[number][member, here] = peak, factor
            if number == 0:
                combined = e * factor[:, None]
            else:
                combined -= e * (factor * x.lam[member, here])[:, None]
        v = x.v[...]
        weights = call.drop(x, member, block, 0)(combined)
        found[here, member] = dot(weights.astype(v.dtype), v, 1, 0).astype(found.dtype)

    found, peaks, factors = call.run(
        kernel, x, None, name="differential_attention",
        grid=(call.rows, call.shared, call.group, call.query_blocks),
        outputs=(
            call.of_query(x.v.shape[-1], x.v.dtype), *([[call.of_vector() for _ in x.maps()]] * 2)
        ),
    )  # fmt: skip
    return found, Saved(peaks, factors)


def backward(x: Operands, given: Given, call: Call) -> Gradients:
    """Derivatives, laid out as what they are of."""

    def kernel(x: Operands, given: Given, outputs: Gradients) -> None:
        v = x.v[...]
        keys = [k[...] for _, _, k, _ in x.maps()]

        def step(number: Any, sums: Any) -> Any:
            member = jax.lax.div(number, call.query_blocks)
            block = jax.lax.rem(number, call.query_blocks)
            *dk, dv = sums
            here, drop = call.at_query(block), call.drop(x, member, block, 0)
            high = x.high[here]
            gradient = given.gradient[here, member]
            by_map = drop(dot(gradient, v, 1, 1))
            combined: Any = None
            for index, q, _, low in x.maps():
                q = q[here, member]
                scores = call.scores(q, keys[index], low[here], high, 0)
                weights = jnp.exp(scores - given.peaks[index][member, here][:, None])
                weights *= given.factors[index][member, here][:, None]
                common = (weights * by_map).sum(1)
                by_scores = weights * (by_map - call.options.keep_rate * common[:, None])
                if index == 0:
                    combined = weights
                else:
                    lam = x.lam[member, here]
                    combined -= weights * lam[:, None]
                    by_scores *= -lam[:, None]
                    outputs.lam[member, here] = -common
                by_scores = (by_scores * call.options.scale).astype(q.dtype)
                dq = dot(by_scores, keys[index], 1, 0)
                outputs.q[index][here, member] = dq.astype(q.dtype)
                dk[index] += dot(by_scores, q, 0, 0)
            dv += dot(drop(combined).astype(v.dtype), gradient, 0, 0)
            return *dk, dv

        zeros = tuple(jnp.zeros(y.shape, jnp.float32) for y in (*keys, v))
        *dk, dv = jax.lax.fori_loop(0, call.group * call.query_blocks, step, zeros)
        for output, total in zip(outputs.k, dk, strict=True):
            output[...] = total.astype(output.dtype)
        outputs.v[...] = dv.astype(outputs.v.dtype)

    return call.run(
        kernel, x, given, name="differential_attention_gradient", grid=(call.rows, call.shared),
        outputs=call.gradients(x),
    )  # fmt: skip
