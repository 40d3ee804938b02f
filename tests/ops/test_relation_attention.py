"""Attention over utterance x modality nodes against its definition node by node, in fp64."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.masks import RELATIONS, SELF, relations, visible
from emojax.ops.random import keep_pair, seeds
from emojax.ops.relation_attention import relation_attention
from tests.ops.oracles import assert_matches

M, H, d = 3, 2, 3
SHORT = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 0, 0]], np.int32)
# Rows of several blocks: a long conversation, short ones, padding.
LONG = np.array([[1] * 29 + [2] * 2 + [3] * 10 + [0] * 4], np.int32)


class Graph:
    """Nodes of some rows, and the definition of attention among them."""

    def __init__(self, segment, window, causal=False):
        draw = np.random.default_rng(3)
        self.segment, self.window, self.causal = segment, window, causal
        self.speaker = draw.integers(0, 3, segment.shape).astype(np.int32)
        self.present = draw.random((*segment.shape, M)) < 0.7
        self.present[0, 3:5, 1] = False
        self.present[0, 4] = False
        visible_ = visible(jnp.asarray(segment), window=window, causal=causal)
        self.codes = np.asarray(relations(jnp.asarray(self.speaker), visible_))

    def inputs(self):
        draw = np.random.default_rng(0)
        node = (*self.segment.shape, M, H, d)
        shapes = {"q": node, "k": node, "v": node, "relation": (H, M, M, RELATIONS)}
        return {name: 2 * draw.normal(size=shape) for name, shape in shapes.items()}

    def naive(self, q, k, v, relation, cross_modal, keep=None):
        out = np.zeros_like(q)
        for b, h, m, i in itertools.product(*map(range, (len(q), H, M, q.shape[1]))):
            around = np.flatnonzero(self.codes[b, i])
            seen = [
                (n, j)
                for n, j in itertools.product(range(M), around)
                if self.present[b, j, n]
                and (
                    n == m
                    or cross_modal == "window"
                    or (cross_modal == "utterance" and self.codes[b, i, j] == SELF)
                )
            ]
            if not seen:
                continue
            weights = scipy.special.softmax(
                [
                    q[b, i, m, h] @ k[b, j, n, h] / np.sqrt(d)
                    + relation[h, m, n, self.codes[b, i, j]]
                    for n, j in seen
                ]
            )
            for weight, (n, j) in zip(weights, seen, strict=True):
                kept = 1 if keep is None else keep[b, h, i * M + m, j * M + n]
                out[b, i, m, h] += kept * weight * v[b, j, n, h]
        return out

    def ours(self, cross_modal, **options):
        known = [jnp.asarray(x) for x in (self.speaker, self.segment, self.present)]
        return lambda q, k, v, relation: relation_attention(
            q, k, v, relation, *known, window=self.window, causal=self.causal,
            cross_modal=cross_modal, **options,
        )  # fmt: skip


@pytest.mark.parametrize("cross_modal", ["none", "utterance", "window"])
def test_matches_the_definition(cross_modal):
    graph = Graph(SHORT, window=1)
    assert_matches(
        graph.ours(cross_modal),
        lambda **x: graph.naive(**x, cross_modal=cross_modal),
        graph.inputs(),
    )


@pytest.mark.parametrize(("window", "causal"), [(1, False), (7, False), (3, True), (0, False)])
def test_rows_of_several_blocks_match_the_definition(window, causal):
    graph = Graph(LONG, window, causal)
    x = graph.inputs()
    y = jax.jit(graph.ours("window"))(**{n: jnp.asarray(v, jnp.float32) for n, v in x.items()})
    wanted = graph.naive(
        **{n: np.float64(np.float32(v)) for n, v in x.items()}, cross_modal="window"
    )
    np.testing.assert_allclose(y, wanted, rtol=0, atol=5e-6)


def test_gradients_of_several_blocks_match_the_definition():
    graph = Graph(LONG[:, 8:], window=1)
    assert_matches(
        graph.ours("window"), lambda **x: graph.naive(**x, cross_modal="window"), graph.inputs()
    )


def test_a_part_of_the_queries_finds_what_it_finds_in_the_whole():
    graph = Graph(LONG, window=2)
    x = {n: jnp.asarray(v, jnp.float32) for n, v in graph.inputs().items()}
    options = {"drop_rate": 0.3, "seed": seeds(jax.random.key(1), 1, H)}
    whole = jax.jit(graph.ours("window", **options))(**x)
    for first in (0, 15, 30):
        part = jax.jit(
            lambda q, first: graph.ours("window", first=first, **options)(**{**x, "q": q})
        )(x["q"][:, first : first + 15], first)
        np.testing.assert_allclose(part, whole[:, first : first + 15], rtol=0, atol=2e-6)


def test_no_array_grows_with_the_square_of_the_row():
    """Compiled for rows of two lengths, forward and backward: twice the columns, twice the work."""

    def flops(length):
        graph = Graph(np.ones((1, length), np.int32), window=3)
        x = {n: jnp.asarray(v, jnp.float32) for n, v in graph.inputs().items()}
        gradient = jax.grad(lambda x: graph.ours("window")(**x).sum())
        # A single row is not looped over, so that its operations are counted.
        return jax.jit(gradient).lower(x).compile().cost_analysis()["flops"]

    assert flops(512) / flops(256) < 2.1


def test_dropout_falls_on_the_map():
    graph, key = Graph(SHORT, window=1), jax.random.key(2)
    rows, length = SHORT.shape
    node = jnp.arange(length * M, dtype=jnp.int32)
    keep = np.asarray(
        keep_pair(seeds(key, rows, H)[..., None, None], node[:, None], node, 0.3) / 0.7
    )
    assert_matches(
        graph.ours("window", drop_rate=0.3, key=key),
        lambda **x: graph.naive(**x, cross_modal="window", keep=keep),
        graph.inputs(),
    )


def test_who_sees_nobody_gets_zeros_and_finite_gradients():
    graph = Graph(SHORT, window=1)
    x = {name: jnp.asarray(value, jnp.float32) for name, value in graph.inputs().items()}

    def scalar(x):
        y = graph.ours("none")(**x)
        return 1e4 * y.sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(x)
    padding = SHORT == 0
    assert (np.asarray(y)[padding] == 0).all()
    assert (np.asarray(y)[0, 3:, 1] == 0).all()  # no audio in the whole conversation
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    assert (np.asarray(gradients["q"])[padding] == 0).all()
    for name in ("k", "v"):
        assert (np.asarray(gradients[name])[~graph.present] == 0).all()
    assert (np.asarray(gradients["relation"])[..., 0] == 0).all()  # code 0 is no edge
