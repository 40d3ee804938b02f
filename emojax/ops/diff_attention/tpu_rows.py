"""TPU kernels for rows whose keys all fit into fast memory.

A program sees every key of its queries. So it normalises both maps, combines them and multiplies by
the values once, and its backward pass needs neither the result nor a second look.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from emojax.ops.diff_attention.kernels import Given, Gradients, Saved, dot
from emojax.ops.diff_attention.problem import FLOOR, Operands
from emojax.ops.diff_attention.tpu_layout import At, Call


def _at(row: Any, shared: Any, member: Any, query: Any) -> At:
    return At(row, shared, member, query, 0)


def _grid(call: Call) -> tuple[int, ...]:
    return call.rows, call.shared, call.group, call.query_blocks


def forward(x: Operands, call: Call) -> tuple[Array, Saved]:
    """What is found, [B, H, I, e]; the peaks and the factors of each map, f32[B, H, 1, I]."""

    def kernel(at: At, x: Operands, given: None, outputs: Any, _: Any) -> None:
        found, peaks, factors = outputs
        combined: Any = None
        for number, q, k, low in x.maps():
            scores = call.scores(q, k, low, x.high, at)
            peak = jnp.maximum(scores.max(0, keepdims=True), FLOOR)
            e = jnp.exp(scores - peak)
            total = e.sum(0, keepdims=True)
            factor = jnp.where(total > 0, 1 / (total * call.options.keep_rate), 0)
            peaks[number][...], factors[number][...] = peak, factor
            combined = e * factor if number == 0 else combined - e * (factor * x.lam[...])
        weights = call.drop(x, at)(combined)
        v = x.v[...]
        found[...] = dot(weights.astype(v.dtype), v, 0, 0).astype(found.dtype)

    width = x.v.shape[-1]
    found, peaks, factors = call.run(
        kernel, x, None, _at, name="differential_attention", grid=_grid(call),
        products=x.map_count * x.q.shape[-1] + width,
        outputs=(
            call.of_query(width, x.v.dtype, _at), *([[call.of_vector(_at) for _ in x.maps()]] * 2)
        ),
    )  # fmt: skip
    return found, Saved(peaks, factors)


def backward(x: Operands, given: Given, call: Call) -> Gradients:
    """Derivatives, laid out as what they are of."""

    def kernel(at: At, x: Operands, given: Given, outputs: Gradients, sums: Any) -> None:
        drop, v = call.drop(x, at), x.v[...]
        gradient = given.gradient[...]
        by_map = drop(dot(v, gradient, 1, 1))
        combined: Any = None

        @pl.when((at.member == 0) & (at.query == 0))
        def _() -> None:
            for each in sums:
                each[...] = jnp.zeros_like(each)

        for number, q, k, low in x.maps():
            scores = call.scores(q, k, low, x.high, at)
            weights = jnp.exp(scores - given.peaks[number][...]) * given.factors[number][...]
            common = (weights * by_map).sum(0, keepdims=True)
            by_scores = weights * (by_map - call.options.keep_rate * common)
            if number == 0:
                combined = weights
            else:
                lam = x.lam[...]
                combined -= weights * lam
                by_scores *= -lam
                outputs.lam[...] = -common
            by_scores = (by_scores * call.options.scale).astype(q.dtype)
            outputs.q[number][...] = dot(by_scores, k[...], 0, 0).astype(q.dtype)
            sums[number][...] += dot(by_scores, q[...], 1, 0)
        sums[-1][...] += dot(drop(combined).astype(v.dtype), gradient, 1, 0)

        @pl.when((at.member == call.group - 1) & (at.query == call.query_blocks - 1))
        def _() -> None:
            for output, total in zip((*outputs.k, outputs.v), sums, strict=True):
                output[...] = total[...].astype(output.dtype)

    of_key = [x.k.shape[-1]] * x.map_count + [x.v.shape[-1]]
    return call.run(
        kernel, x, given, _at, name="differential_attention_gradient", grid=_grid(call), inner=2,
        products=3 * x.map_count * x.q.shape[-1] + 2 * x.v.shape[-1],
        outputs=call.gradients(x, _at),
        scratch=[pltpu.VMEM((call.keys, width), jnp.float32) for width in of_key],
    )  # fmt: skip
