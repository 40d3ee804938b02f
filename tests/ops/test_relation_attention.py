"""Attention over utterance x modality nodes against its definition node by node, in fp64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.masks import RELATIONS, SELF, relations, visible
from emojax.ops.relation_attention import relation_attention
from tests.ops import oracles
from tests.ops.oracles import assert_matches

B, L, M, H, d = 2, 5, 3, 2, 3
SEGMENT = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]], np.int32)
SPEAKER = np.array([[0, 1, 0, 1, 1], [2, 2, 0, 0, 0]], np.int32)
PRESENT = np.random.default_rng(3).random((B, L, M)) < 0.7
PRESENT[0, 3:, 1] = False
PRESENT[0, 4] = False
CODES = np.asarray(
    jax.jit(lambda: relations(jnp.asarray(SPEAKER), visible(jnp.asarray(SEGMENT), window=1)))()
)


def naive(q, k, v, relation, cross_modal, keep=None):
    out = np.zeros_like(v)
    for b, h, m, i in itertools.product(range(B), range(H), range(M), range(L)):
        seen = [
            (n, j)
            for n, j in itertools.product(range(M), range(L))
            if PRESENT[b, j, n]
            and CODES[b, i, j] > 0
            and (
                n == m
                or cross_modal == "window"
                or (cross_modal == "utterance" and CODES[b, i, j] == SELF)
            )
        ]
        if not seen:
            continue
        weights = scipy.special.softmax(
            [
                q[b, i, m, h] @ k[b, j, n, h] / np.sqrt(d) + relation[h, m, n, CODES[b, i, j]]
                for n, j in seen
            ]
        )
        for weight, (n, j) in zip(weights, seen, strict=True):
            kept = 1 if keep is None else keep[b, h, m, n, i, j]
            out[b, i, m, h] += kept * weight * v[b, j, n, h]
    return out


def inputs():
    draw = np.random.default_rng(0)
    node = (B, L, M, H, d)
    shapes = {"q": node, "k": node, "v": node, "relation": (H, M, M, RELATIONS)}
    return {name: 2 * draw.normal(size=shape) for name, shape in shapes.items()}


def ours(cross_modal, **options):
    return lambda **x: relation_attention(
        **x, codes=jnp.asarray(CODES), present=jnp.asarray(PRESENT), cross_modal=cross_modal,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("cross_modal", ["none", "utterance", "window"])
def test_matches_the_definition(cross_modal):
    assert {*np.unique(CODES)} == set(range(RELATIONS))
    assert_matches(ours(cross_modal), lambda **x: naive(**x, cross_modal=cross_modal), inputs())


def test_dropout_falls_on_the_map():
    key = jax.random.key(2)
    keep = oracles.kept_by_row(key, 0.3, (B, H, M, M, L, L)) / 0.7
    assert_matches(
        ours("window", drop_rate=0.3, key=key),
        lambda **x: naive(**x, cross_modal="window", keep=keep),
        inputs(),
    )


def test_who_sees_nobody_gets_zeros_and_finite_gradients():
    x = {name: jnp.asarray(value, jnp.float32) for name, value in inputs().items()}

    def scalar(x):
        y = ours("none")(**x)
        return 1e4 * y.sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(x)
    padding = SEGMENT == 0
    assert (np.asarray(y)[padding] == 0).all()
    assert (np.asarray(y)[0, 3:, 1] == 0).all()  # no audio in the whole conversation
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert (np.asarray(gradients["q"])[padding] == 0).all()
    for name in ("k", "v"):
        assert (np.asarray(gradients[name])[~PRESENT] == 0).all()
    assert (np.asarray(gradients["relation"])[..., 0] == 0).all()  # code 0 is no edge
