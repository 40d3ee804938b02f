"""Smoothing along a chain against enumeration; the module's tests hold it to a loop."""

from __future__ import annotations

import itertools

import jax.numpy as jnp
import numpy as np
import scipy.special

from emojax.ops.chain import latest, smoothed

C = 3
SEGMENT = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 0]], np.int32)
SPEAKER = np.array([[0, 1, 0, 2, 0, 1, 1, 0, 0]], np.int32)


def test_smoothing_is_exact_for_one_speaker_and_a_reversible_chain():
    draw = np.random.default_rng(1)
    L, base = 5, np.array([0.5, 0.3, 0.2])
    unary = 2 * draw.normal(size=(L, C))
    stays = 0.7 * np.eye(C) + 0.3 * base
    weight = np.array([0.8, 0.05, 0.15])
    chain = weight[0] * stays + (1 - weight[0]) * base  # who speaks alone hears nobody
    joint = np.zeros((L, C))
    for states in itertools.product(range(C), repeat=L):
        p = base[states[0]] * np.exp(unary[np.arange(L), states].sum())
        p *= np.prod([chain[a, b] for a, b in itertools.pairwise(states)])
        joint[np.arange(L), states] += p
    given = unary[None], np.tile(stays, (2, 2, 1, 1)), np.tile(weight, (2, 1)), base
    alone = jnp.zeros((1, L), int), jnp.ones((1, L), int)
    found = smoothed(*(jnp.asarray(x, jnp.float32) for x in given), *alone)[0]
    np.testing.assert_allclose(
        scipy.special.softmax(np.asarray(found), -1),
        joint / joint.sum(-1, keepdims=True),
        rtol=2e-5,
    )


def test_who_spoke_last():
    same, other = map(np.asarray, latest(jnp.asarray(SPEAKER), jnp.asarray(SEGMENT)))
    assert [np.flatnonzero(row).tolist() for row in same[0][:8]] == [
        [], [], [0], [], [2], [], [5], [],
    ]  # fmt: skip
    assert [np.flatnonzero(row).tolist() for row in other[0][:8]] == [
        [], [0], [1], [2], [3], [], [], [6],
    ]  # fmt: skip
