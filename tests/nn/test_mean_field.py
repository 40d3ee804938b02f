"""The mean-field refinement against a loop over edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.nn.mean_field import RelationMeanField
from emojax.ops.masks import relations, visible

C, STEPS = 3, 2


SHORT = np.array([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
# Rows of several blocks: a long conversation, short ones, padding.
LONG = np.array([[1] * 29 + [2] * 2 + [3] * 10 + [0] * 4], np.int32)


def example(segment):
    draw = np.random.default_rng(0)
    speaker = draw.integers(2, size=segment.shape)
    unary = draw.normal(size=(*segment.shape, C))
    params = {
        "compatibility": draw.normal(size=(4, C, C)),
        "fading": draw.normal(size=4),
    }
    return unary, speaker, params


@pytest.mark.parametrize("segment", [SHORT, LONG], ids=["short", "long"])
@pytest.mark.parametrize("causal", [False, True])
def test_against_a_loop_over_edges(segment, causal):
    unary, speaker, params = example(segment)
    sight = visible(jnp.asarray(segment), window=3, causal=causal)
    codes = np.asarray(relations(jnp.asarray(speaker), sight))
    fading = np.log1p(np.exp(params["fading"]))
    expected = unary
    for _ in range(STEPS):
        probability = scipy.special.softmax(expected, axis=-1)
        refined = unary.copy()
        for b, i, j in np.argwhere(codes > 1):
            relation = codes[b, i, j] - 2
            strength = np.exp(-fading[relation] * (abs(i - j) - 1))
            refined[b, i] += strength * probability[b, j] @ params["compatibility"][relation]
        expected = refined
    variables = {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)}
    found = jax.jit(RelationMeanField(STEPS, 3, causal).apply)(
        variables, jnp.asarray(unary, jnp.float32), jnp.asarray(speaker), jnp.asarray(segment)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_begins_as_the_identity():
    unary, speaker, _ = example(SHORT)
    batch = jnp.asarray(unary, jnp.float32), jnp.asarray(speaker), jnp.asarray(SHORT)
    module = RelationMeanField(STEPS, 3, False)
    variables = jax.jit(module.init)(jax.random.key(0), *batch)
    np.testing.assert_array_equal(module.apply(variables, *batch), batch[0])


def test_gradients_are_finite_however_fast_relations_fade():
    unary, speaker, params = example(LONG)
    params["fading"] = np.array([-200.0, 0.0, 200.0, 1e4])
    variables = {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)}
    batch = jnp.asarray(unary, jnp.float32), jnp.asarray(speaker), jnp.asarray(LONG)
    module = RelationMeanField(STEPS, 3, False)
    gradients = jax.jit(jax.grad(lambda v: (module.apply(v, *batch) ** 2).sum()))(variables)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))
