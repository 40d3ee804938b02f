"""The mean-field refinement against a loop over edges."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from emojax.nn.mean_field import RelationMeanField
from emojax.ops.masks import relations, visible

C, STEPS = 3, 2


def example():
    draw = np.random.default_rng(0)
    segment = jnp.asarray([[1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]])
    speaker = jnp.asarray(draw.integers(2, size=segment.shape))
    codes = relations(speaker, visible(segment, window=3))
    unary = draw.normal(size=(*segment.shape, C))
    params = {
        "compatibility": draw.normal(size=(4, C, C)),
        "fading": draw.normal(size=4),
    }
    return unary, np.asarray(codes), params


def test_against_a_loop_over_edges():
    unary, codes, params = example()
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
    found = jax.jit(RelationMeanField(STEPS).apply)(
        variables, jnp.asarray(unary, jnp.float32), jnp.asarray(codes)
    )
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_begins_as_the_identity():
    unary, codes, _ = example()
    unary, codes = jnp.asarray(unary, jnp.float32), jnp.asarray(codes)
    module = RelationMeanField(STEPS)
    variables = jax.jit(module.init)(jax.random.key(0), unary, codes)
    np.testing.assert_array_equal(module.apply(variables, unary, codes), unary)
