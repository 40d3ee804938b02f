"""Fusion layers against what their papers write out, in fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.nn.fusion import Decisions, LowRankProducts, Scores, TensorProducts

B, L, M, D, C = 2, 4, 3, 5, 6
DRAW = np.random.default_rng(0)
PRESENT = DRAW.random((B, L, M)) < 0.6
PRESENT[0, 0], PRESENT[0, 1] = False, True


def streams() -> list[jax.Array]:
    return [jnp.asarray(DRAW.normal(size=(B, L, D)), jnp.float32) for _ in range(M)]


def test_low_rank_products_are_a_map_of_the_outer_product():
    x, module = streams(), LowRankProducts(rank=3, features=7, dtype=jnp.float32)
    found, variables = module.init_with_output(jax.random.key(1), x)
    params = jax.tree.map(lambda y: np.asarray(y, np.float64), variables["params"])
    kernel = np.einsum(
        "arf,brf,crf,r->abcf", *(params[f"factor_{i}"] for i in range(3)), params["rank"]
    )
    text, audio, visual = (np.concatenate([y, np.ones((B, L, 1))], -1) for y in x)
    wanted = np.einsum("bla,blc,ble,acef->blf", text, audio, visual, kernel) + params["bias"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_tensor_products_hold_pairs_and_single_units():
    x, module = streams(), TensorProducts(units=4, dtype=jnp.float32)
    found, variables = module.init_with_output(jax.random.key(1), x)
    units = [
        np.asarray(jax.nn.gelu(y @ p["kernel"] + p["bias"], approximate=False))
        for y, p in zip(x, (variables["params"][f"unit_{i}"] for i in range(3)), strict=True)
    ]
    cube = np.asarray(found).reshape(B, L, 5, 5, 5)
    np.testing.assert_allclose(cube[..., :4, 4, 4], units[0], rtol=0, atol=1e-6)
    pairs = units[1][..., :, None] * units[2][..., None, :]
    np.testing.assert_allclose(cube[..., 4, :4, :4], pairs, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        cube[..., :4, :4, :4], units[0][..., None, None] * pairs[..., None, :, :], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("learned", [False, True])
def test_decisions_are_a_mean_of_the_probabilities_that_are_there(learned):
    logits = DRAW.normal(size=(B, L, M, C)).astype(np.float32)
    score = np.array([0.5, -1.0, 2.0]) if learned else np.zeros(3)
    variables = {"params": {"weight": jnp.asarray(score, jnp.float32)}} if learned else {}
    found = np.asarray(
        Decisions(learned).apply(variables, jnp.asarray(logits), jnp.asarray(PRESENT)), np.float64
    )
    for b, i in np.ndindex(B, L):
        there = PRESENT[b, i]
        if there.any():
            weight = scipy.special.softmax(score[there])
            wanted = weight @ scipy.special.softmax(logits[b, i, there].astype(float), axis=-1)
        else:
            wanted = np.full(C, 1 / C)
        np.testing.assert_allclose(scipy.special.softmax(found[b, i]), wanted, rtol=0, atol=1e-6)


def test_scores_of_the_missing_are_zero_and_move_to_the_others():
    x = jnp.asarray(np.stack(streams(), axis=2))
    module = Scores(jnp.float32)
    everything = jnp.ones((B, L, M), bool)
    variables = module.init(jax.random.key(0), x, everything)
    whole = np.asarray(module.apply(variables, x, everything))
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-6)
    without = np.asarray(module.apply(variables, x, everything.at[..., 2].set(False)))
    assert (without[..., 2] == 0).all()
    np.testing.assert_allclose(
        without[..., :2], whole[..., :2] / whole[..., :2].sum(-1, keepdims=True), rtol=1e-5
    )
