"""Compacting against boolean indexing; each direction's gradient is the other direction."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emojax.ops.compact import compact, expand

B, L, D = 3, 5, 4
X = np.random.default_rng(0).normal(size=(B, L, D)).astype(np.float32)
compiled_compact = jax.jit(compact, static_argnums=2)
compiled_expand = jax.jit(expand)


@settings(max_examples=40, deadline=None)
@given(mask=arrays(bool, (B, L)), capacity=st.sampled_from([1, 4, B * L, B * L + 3]))
def test_compact_takes_the_real_rows_in_order(mask, capacity):
    ours = np.asarray(compiled_compact(X, mask, capacity))
    wanted = np.zeros((capacity, D), np.float32)
    rows = X[mask][:capacity]
    wanted[: len(rows)] = rows
    np.testing.assert_array_equal(ours, wanted)


@settings(max_examples=40, deadline=None)
@given(mask=arrays(bool, (B, L)))
def test_expand_is_the_inverse(mask):
    there = np.asarray(compiled_expand(compiled_compact(X, mask, B * L), mask))
    np.testing.assert_array_equal(there, np.where(mask[..., None], X, 0))


@pytest.mark.parametrize("capacity", [7, B * L])
def test_gradients_are_those_of_plain_indexing(capacity):
    draw = np.random.default_rng(1)
    mask = np.zeros((B, L), bool)
    mask.ravel()[draw.choice(B * L, 7, replace=False)] = True
    inside, outside = draw.normal(size=(capacity, D)), draw.normal(size=(B, L, D))
    y = draw.normal(size=(capacity, D)).astype(np.float32)

    @jax.jit
    def pulls(x, y):
        (by_x,) = jax.vjp(lambda x: compact(x, jnp.asarray(mask), capacity), x)[1](
            jnp.float32(inside)
        )
        (by_y,) = jax.vjp(lambda y: expand(y, jnp.asarray(mask)), y)[1](jnp.float32(outside))
        return by_x, by_y

    by_x, by_y = pulls(X, y)
    wanted = np.zeros((B, L, D), np.float32)
    wanted[mask] = inside[:7]
    np.testing.assert_array_equal(by_x, wanted)
    wanted = np.zeros((capacity, D), np.float32)
    wanted[:7] = outside[mask]
    np.testing.assert_array_equal(by_y, wanted)
