"""Attention over padded rows, values and gradients, against the fp64 definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.attention import softmax_attention
from tests.ops.oracles import assert_matches

B, L, H, d = 3, 7, 2, 3
USED = np.arange(L) < np.array([[7], [4], [1]])


def inputs(size: float = 2.0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {name: size * draw.normal(size=(B, L, H, d)) for name in "qkv"}


def definition(q, k, v, scale):
    scores = np.einsum("bihd,bjhd->bhij", q, k) * scale
    weights = scipy.special.softmax(np.where(USED[:, None, None], scores, -np.inf), axis=-1)
    return np.einsum("bhij,bjhd->bihd", weights, v)


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_matches_the_definition(scale):
    assert_matches(
        lambda **x: softmax_attention(**x, used=jnp.asarray(USED), scale=scale),
        lambda **x: definition(**x, scale=scale),
        inputs(),
    )


def test_large_scores_overflow_nowhere():
    x = {name: jnp.asarray(value, jnp.float32) for name, value in inputs(40.0).items()}

    def ours(x):
        return softmax_attention(**x, used=jnp.asarray(USED), scale=1.0)

    wanted = definition(**inputs(40.0), scale=1.0)
    np.testing.assert_allclose(ours(x), wanted, rtol=1e-3, atol=1e-2)
    gradients = jax.grad(lambda x: jnp.square(ours(x)).sum())(x)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_what_is_not_used_has_no_gradient():
    x = {name: jnp.asarray(value, jnp.float32) for name, value in inputs().items()}
    gradients = jax.grad(
        lambda x: jnp.square(softmax_attention(**x, used=jnp.asarray(USED), scale=0.5)).sum()
    )(x)
    for name in "kv":
        assert (np.asarray(gradients[name])[~USED] == 0).all()
        assert np.asarray(gradients[name])[USED].any()


def test_half_precision_keeps_its_dtype_and_sums_in_fp32():
    x = {name: jnp.asarray(value, jnp.bfloat16) for name, value in inputs().items()}
    exact = {name: np.asarray(value, np.float64) for name, value in x.items()}
    found, pull = jax.vjp(lambda x: softmax_attention(**x, used=jnp.asarray(USED), scale=0.3), x)
    assert found.dtype == jnp.bfloat16
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(pull(found)))
    np.testing.assert_allclose(
        np.asarray(found, np.float64), definition(**exact, scale=0.3), rtol=0.02, atol=0.03
    )
