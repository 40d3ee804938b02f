"""GPU kernels for rows too long to be seen at once: block by block, with an online softmax.

The maps cannot be combined before their sums are known, so each has an accumulator of its own.
Blocks that no query of a program may see are not computed: causality, windows and packed
conversations cost what they leave.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from emojax.ops.diff_attention.gpu_layout import Call
from emojax.ops.diff_attention.kernels import Given, Gradients, Saved, backward_by_blocks, dot
from emojax.ops.diff_attention.problem import FLOOR, Operands


def forward(x: Operands, call: Call) -> tuple[Array, Saved]:
    """What is found, [B, I, H, e]; and that, what the second map found alone, peaks and
    factors, for the backward pass."""

    def kernel(x: Operands, given: None, outputs: Any, first: Any, last: Any) -> None:
        *results, peaks, factors = outputs
        member, block = pl.program_id(2), pl.program_id(3)
        here = call.at_query(block)
        high = x.high[here]
        queries = [(q[here, member], low[here]) for _, q, _, low in x.maps()]

        def step(key: Any, state: Any) -> Any:
            there, drop = call.at_key(key), call.drop(x, member, block, key)
            v = x.v[there]
            after = []
            for number, _, k, _ in x.maps():
                peak, total, found = state[number]
                q, low = queries[number]
                scores = call.scores(q, k[there], low, high, key)
                before, peak = peak, jnp.maximum(peak, scores.max(1))
                e, fade = jnp.exp(scores - peak[:, None]), jnp.exp(before - peak)
                new = dot(drop(e).astype(v.dtype), v, 1, 0)
                after.append((peak, total * fade + e.sum(1), found * fade[:, None] + new))
            return tuple(after)

        size = call.query_block
        nothing = (
            jnp.full(size, FLOOR, jnp.float32), jnp.zeros(size, jnp.float32),
            jnp.zeros((size, x.v.shape[-1]), jnp.float32),
        )  # fmt: skip
        start, stop = first[block], last[block] + 1
        state = jax.lax.fori_loop(start, stop, step, (nothing,) * x.map_count)
        parts = []
        for number, (peak, total, found) in enumerate(state):
            factor = jnp.where(total > 0, 1 / (total * call.options.keep_rate), 0)
            peaks[number][member, here], factors[number][member, here] = peak, factor
            parts.append(found * factor[:, None])
        if x.lam is not None:
            parts[0] -= parts[1] * x.lam[member, here][:, None]
        for result, part in zip(results, parts, strict=True):
            result[here, member] = part.astype(result.dtype)

    result = call.of_query(x.v.shape[-1], x.v.dtype)
    *results, peaks, factors = call.run(
        kernel, x, None, name="differential_attention", met=call.reach(x),
        grid=(call.rows, call.shared, call.group, call.query_blocks),
        outputs=(*([result] * x.map_count), *([[call.of_vector()] * x.map_count] * 2)),
    )  # fmt: skip
    return results[0], Saved(peaks, factors, results)


def backward(x: Operands, given: Given, call: Call) -> Gradients:
    """Derivatives, laid out as what they are of."""
    return backward_by_blocks(x, given, call, _of_queries, _of_keys)


def _by_scores(
    x: Operands, given: Given, call: Call, member: Any, query: Any, key: Any
) -> tuple[list[Array], Array, Array]:
    """Of a block: derivatives by both maps' scores, the combined map, and the gradient by it."""
    here, there = call.at_query(query), call.at_key(key)
    drop, v, high = call.drop(x, member, query, key), x.v[there], x.high[here]
    gradient = given.gradient[here, member]
    by_map = drop(dot(gradient, v, 1, 1))
    found: list[Array] = []
    combined: Any = None
    for number, q, k, low in x.maps():
        scores = call.scores(q[here, member], k[there], low[here], high, key)
        weights = jnp.exp(scores - given.peaks[number][member, here][:, None])
        weights *= given.factors[number][member, here][:, None]
        by_scores = weights * (by_map - given.common[number][member, here][:, None])
        if number == 0:
            combined = weights
        else:
            lam = x.lam[member, here][:, None]
            by_scores *= -lam
            combined -= weights * lam
        found.append((by_scores * call.options.scale).astype(k.dtype))
    return found, drop(combined).astype(v.dtype), gradient


def _of_queries(
    x: Operands, given: Given, call: Call, met: tuple[Array, Array]
) -> tuple[Array, ...]:
    def kernel(x: Operands, given: Given, outputs: Any, first: Any, last: Any) -> None:
        member, block = pl.program_id(2), pl.program_id(3)

        def step(key: Any, sums: Any) -> Any:
            by_scores, _, _ = _by_scores(x, given, call, member, block, key)
            return tuple(
                sums[number] + dot(by_scores[number], k[call.at_key(key)], 1, 0)
                for number, _, k, _ in x.maps()
            )

        zeros = jnp.zeros((call.query_block, x.q.shape[-1]), jnp.float32)
        sums = jax.lax.fori_loop(first[block], last[block] + 1, step, (zeros,) * x.map_count)
        for output, total in zip(outputs, sums, strict=True):
            output[call.at_query(block), member] = total.astype(output.dtype)

    return call.run(
        kernel, x, given, name="differential_attention_dq", met=met, outputs=call.gradients(x).q,
        grid=(call.rows, call.shared, call.group, call.query_blocks),
    )  # fmt: skip


def _of_keys(
    x: Operands, given: Given, call: Call, met: tuple[Array, Array]
) -> tuple[tuple[Array, ...], Array]:
    def kernel(x: Operands, given: Given, outputs: Any, first: Any, last: Any) -> None:
        block = pl.program_id(2)
        zeros = [
            jnp.zeros((call.key_block, y.shape[-1]), jnp.float32)
            for y in (*(k for _, _, k, _ in x.maps()), x.v)
        ]

        def of_member(member: int, sums: Any) -> Any:
            def step(query: Any, sums: Any) -> Any:
                by_scores, combined, gradient = _by_scores(x, given, call, member, query, block)
                *dk, dv = sums
                for number, q, _, _ in x.maps():
                    dk[number] += dot(by_scores[number], q[call.at_query(query), member], 0, 0)
                return *dk, dv + dot(combined, gradient, 0, 0)

            return jax.lax.fori_loop(first[block], last[block] + 1, step, sums)

        sums = tuple(zeros)
        for member in range(call.group):
            sums = of_member(member, sums)
        for output, total in zip(outputs, sums, strict=True):
            output[call.at_key(block)] = total.astype(output.dtype)

    wanted = call.gradients(x)
    *k, v = call.run(
        kernel, x, given, name="differential_attention_dkv", met=met, outputs=(*wanted.k, wanted.v),
        grid=(call.rows, call.shared, call.key_blocks),
    )  # fmt: skip
    return tuple(k), v
