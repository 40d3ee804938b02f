"""Diffusion against matrix powers and against its limit, in fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops.diffusion import diffuse
from tests.ops.oracles import assert_matches

B, L, H, d = 2, 5, 2, 3


def inputs():
    draw = np.random.default_rng(0)
    transition = draw.random((B, H, L, L)) + 0.1
    transition[:, :, :, 3] = 0
    return {
        "transition": transition / transition.sum(-1, keepdims=True),
        "source": draw.normal(size=(B, L, H, d)),
        "restart": np.array([0.2, 0.7]),
    }


def by_powers(transition, source, restart, steps):
    out = np.empty_like(source)
    for b in range(B):
        for h, g in enumerate(restart):
            T, z = (1 - g) * transition[b, h], source[b, :, h]
            powers = [np.linalg.matrix_power(T, k) for k in range(steps + 1)]
            out[b, :, h] = powers[-1] @ z + g * sum(p @ z for p in powers[:-1])
    return out


def along(transition, source, restart, steps):
    return diffuse(lambda z: jnp.einsum("bhij,bjhd->bihd", transition, z), source, restart, steps)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_is_a_sum_of_matrix_powers(steps):
    arguments = inputs()
    assert_matches(
        lambda **x: along(**x, steps=steps), lambda **x: by_powers(**x, steps=steps), arguments
    )


def test_tends_to_personalised_pagerank():
    x = inputs()
    single = {name: jnp.asarray(value, jnp.float32) for name, value in x.items()}
    z = np.asarray(jax.jit(lambda x: along(**x, steps=80))(single))
    for b in range(B):
        for h, g in enumerate(x["restart"]):
            limit = np.linalg.solve(
                np.eye(L) - (1 - g) * x["transition"][b, h], g * x["source"][b, :, h]
            )
            np.testing.assert_allclose(z[b, :, h], limit, rtol=0, atol=1e-5)
