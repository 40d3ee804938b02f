"""TPU kernels for rows too long to be seen at once: block by block, with an online softmax.

The maps cannot be combined before their sums are known, so each has an accumulator of its own.
Blocks that no query of a program may see are neither fetched nor computed: causality, windows and
packed conversations cost what they leave.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from emojax.ops.diff_attention.kernels import (
    Given,
    Gradients,
    Saved,
    backward_by_blocks,
    dot,
    most_steps,
)
from emojax.ops.diff_attention.problem import FLOOR, Operands
from emojax.ops.diff_attention.tpu_layout import At, Call


def _steps(call: Call) -> int:
    return most_steps(call.options, call.query_block, call.key_block, call.key_blocks)


def _met(first: Any, last: Any, step: Any) -> tuple[Any, Any]:
    """The block of a step, and whether it is one: beyond the last it is the last again, which is
    not fetched anew."""
    return jnp.maximum(jnp.minimum(first + step, last), first), first + step <= last


def _keys_in_turn(
    row: Any, shared: Any, member: Any, query: Any, step: Any, first: Any, last: Any
) -> At:
    key, active = _met(first[row, query], last[row, query], step)
    return At(row, shared, member, query, key, step, active)


def forward(x: Operands, call: Call) -> tuple[Array, Saved]:
    """What is found, [B, H, I, e]; and that, what the second map found alone, peaks and
    factors, for the backward pass."""
    steps, maps, width = _steps(call), x.map_count, x.v.shape[-1]

    def kernel(at: At, x: Operands, given: None, outputs: Any, scratch: Any) -> None:
        *results, tops, factors = outputs
        peaks, totals, sums = (scratch[i * maps : (i + 1) * maps] for i in range(3))

        @pl.when(at.step == 0)
        def _() -> None:
            for number in range(maps):
                peaks[number][...] = jnp.full_like(peaks[number], FLOOR)
                totals[number][...] = jnp.zeros_like(totals[number])
                sums[number][...] = jnp.zeros_like(sums[number])

        @pl.when(at.active)
        def _() -> None:
            drop, v = call.drop(x, at), x.v[...]
            for number, q, k, low in x.maps():
                scores = call.scores(q, k, low, x.high, at)
                before = peaks[number][...]
                peak = jnp.maximum(before, scores.max(0, keepdims=True))
                e, fade = jnp.exp(scores - peak), jnp.exp(before - peak)
                peaks[number][...] = peak
                totals[number][...] = totals[number][...] * fade + e.sum(0, keepdims=True)
                # Transposed like the maps: what fades with its query fades by a row vector.
                new = dot(v, drop(e).astype(v.dtype), 0, 0)
                sums[number][...] = sums[number][...] * fade + new

        @pl.when(at.step == steps - 1)
        def _() -> None:
            parts = []
            for number in range(maps):
                total = totals[number][...]
                factor = jnp.where(total > 0, 1 / (total * call.options.keep_rate), 0)
                tops[number][...], factors[number][...] = peaks[number][...], factor
                parts.append(sums[number][...] * factor)
            if maps == 2:
                parts[0] -= parts[1] * x.lam[...]
            for result, part in zip(results, parts, strict=True):
                result[...] = part.T.astype(result.dtype)

    result = call.of_query(width, x.v.dtype, _keys_in_turn)
    vector = (1, call.query_block)
    *results, peaks, factors = call.run(
        kernel, x, None, _keys_in_turn, name="differential_attention", inner=1,
        products=maps * (x.q.shape[-1] + width),
        prefetched=call.reach(x),
        grid=(call.rows, call.shared, call.group, call.query_blocks, steps),
        outputs=(*([result] * maps), *([[call.of_vector(_keys_in_turn)] * maps] * 2)),
        scratch=[pltpu.VMEM(shape, jnp.float32) for shape in (
            *([vector] * 2 * maps), *([(width, call.query_block)] * maps)
        )],
    )  # fmt: skip
    return results[0], Saved(peaks, factors, results)


def backward(x: Operands, given: Given, call: Call) -> Gradients:
    """Derivatives, laid out as what they are of."""
    return backward_by_blocks(x, given, call, _of_queries, _of_keys)


def _by_scores(x: Operands, given: Given, call: Call, at: At) -> tuple[list[Array], Array, Array]:
    """Of a block: derivatives by both maps' scores, the combined map, and the gradient by it."""
    drop, v = call.drop(x, at), x.v[...]
    gradient = given.gradient[...]
    by_map = drop(dot(v, gradient, 1, 1))
    found: list[Array] = []
    combined: Any = None
    for number, q, k, low in x.maps():
        scores = call.scores(q, k, low, x.high, at)
        weights = jnp.exp(scores - given.peaks[number][...]) * given.factors[number][...]
        by_scores = weights * (by_map - given.common[number][...])
        if number == 0:
            combined = weights
        else:
            by_scores *= -x.lam[...]
            combined -= weights * x.lam[...]
        found.append((by_scores * call.options.scale).astype(q.dtype))
    return found, drop(combined).astype(v.dtype), gradient


def _of_queries(
    x: Operands, given: Given, call: Call, met: tuple[Array, Array]
) -> tuple[Array, ...]:
    steps = _steps(call)

    def kernel(at: At, x: Operands, given: Given, outputs: Any, sums: Any) -> None:
        @pl.when(at.step == 0)
        def _() -> None:
            for each in sums:
                each[...] = jnp.zeros_like(each)

        @pl.when(at.active)
        def _() -> None:
            by_scores, _, _ = _by_scores(x, given, call, at)
            for number, _, k, _ in x.maps():
                sums[number][...] += dot(by_scores[number], k[...], 0, 0)

        @pl.when(at.step == steps - 1)
        def _() -> None:
            for each, total in zip(outputs, sums, strict=True):
                each[...] = total[...].astype(each.dtype)

    outputs = call.gradients(x, _keys_in_turn).q
    return call.run(
        kernel, x, given, _keys_in_turn, name="differential_attention_dq", prefetched=met, inner=1,
        products=2 * x.map_count * x.q.shape[-1] + x.v.shape[-1],
        grid=(call.rows, call.shared, call.group, call.query_blocks, steps), outputs=outputs,
        scratch=[pltpu.VMEM((call.query_block, x.q.shape[-1]), jnp.float32) for _ in outputs],
    )  # fmt: skip


def _of_keys(
    x: Operands, given: Given, call: Call, met: tuple[Array, Array]
) -> tuple[tuple[Array, ...], Array]:
    steps = most_steps(call.options, call.key_block, call.query_block, call.query_blocks)

    def queries_in_turn(
        row: Any, shared: Any, key: Any, member: Any, step: Any, first: Any, last: Any
    ) -> At:
        query, active = _met(first[row, key], last[row, key], step)
        return At(row, shared, member, query, key, step, active)

    def kernel(at: At, x: Operands, given: Given, outputs: Any, sums: Any) -> None:
        @pl.when((at.member == 0) & (at.step == 0))
        def _() -> None:
            for each in sums:
                each[...] = jnp.zeros_like(each)

        @pl.when(at.active)
        def _() -> None:
            by_scores, combined, gradient = _by_scores(x, given, call, at)
            for number, q, _, _ in x.maps():
                sums[number][...] += dot(by_scores[number], q[...], 1, 0)
            sums[-1][...] += dot(combined, gradient, 1, 0)

        @pl.when((at.member == call.group - 1) & (at.step == steps - 1))
        def _() -> None:
            for each, total in zip(outputs, sums, strict=True):
                each[...] = total[...].astype(each.dtype)

    wanted = call.gradients(x, queries_in_turn)
    *k, v = call.run(
        kernel, x, given, queries_in_turn,
        name="differential_attention_dkv", prefetched=met, inner=2,
        products=2 * (x.map_count * x.q.shape[-1] + x.v.shape[-1]),
        grid=(call.rows, call.shared, call.key_blocks, call.group, steps),
        outputs=(*wanted.k, wanted.v),
        scratch=[pltpu.VMEM((call.key_block, each.shape[-1]), jnp.float32)
                 for each in (*wanted.k, wanted.v)],
    )  # fmt: skip
    return tuple(k), v
