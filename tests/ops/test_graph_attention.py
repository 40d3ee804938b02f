"""The published relation GAT against a concatenation for every pair, in fp64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from emojax.ops.graph_attention import relation_gat
from emojax.ops.random import keep_mask
from tests.ops.oracles import assert_matches

B, L, H, D, R = 2, 6, 2, 4, 6


WITHIN = np.array([[True] * L, [True] * (L - 1) + [False]])


def naive(h, source, target, relation, edges, keep=None):
    """e_ij = LeakyReLU(a^T [h_i ; h_j ; r_ij]) pair by pair; no edge at all means all within."""
    out = np.zeros_like(h)
    for b, head, i in itertools.product(range(B), range(H), range(L)):
        a = np.concatenate([source[head], target[head], [1.0]])
        scores = np.array(
            [
                a @ np.concatenate([h[b, i, head], h[b, j, head], relation[head, [edges[b, i, j]]]])
                for j in range(L)
            ]
        )
        scores = np.where(scores > 0, scores, 0.2 * scores)
        linked = edges[b, i] > 0
        weights = WITHIN[b] / WITHIN[b].sum()
        if linked.any():
            weights = np.zeros(L)
            weights[linked] = scipy.special.softmax(scores[linked])
        if keep is not None:
            weights = weights * keep[b, head, i]
        out[b, i, head] = weights @ h[b, :, head]
    return out


def inputs():
    draw = np.random.default_rng(0)
    edges = draw.integers(0, R, size=(B, L, L)).astype(np.int32)
    edges[1, 4:] = 0
    shapes = {"h": (B, L, H, D), "source": (H, D), "target": (H, D), "relation": (H, R)}
    return {name: draw.normal(size=shape) for name, shape in shapes.items()}, edges


def test_matches_the_definition():
    arguments, edges = inputs()
    assert_matches(
        lambda **x: relation_gat(**x, edges=jnp.asarray(edges), within=jnp.asarray(WITHIN)),
        lambda **x: naive(**x, edges=edges),
        arguments,
    )


def test_dropout_falls_on_the_map():
    arguments, edges = inputs()
    key = jax.random.key(1)
    keep = np.asarray(keep_mask(key, 0.2, (B, H, L, L))) / 0.8
    assert_matches(
        lambda **x: relation_gat(
            **x, edges=jnp.asarray(edges), within=jnp.asarray(WITHIN), drop_rate=0.2, key=key
        ),
        lambda **x: naive(**x, edges=edges, keep=keep),
        arguments,
    )


def test_half_precision_keeps_logits_and_softmax_in_single():
    arguments, edges = inputs()
    half = {name: jnp.asarray(x, jnp.bfloat16) for name, x in arguments.items()}
    y = jax.jit(relation_gat)(**half, edges=jnp.asarray(edges), within=jnp.asarray(WITHIN))
    assert y.dtype == jnp.bfloat16
    wanted = naive(**{n: np.asarray(x, np.float64) for n, x in half.items()}, edges=edges)
    # Two roundings of 2^-9 each: of a weight, and of the sum of values up to 3.
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=0, atol=0.02)
