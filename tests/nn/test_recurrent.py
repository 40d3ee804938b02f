"""Recurrence over packed conversations against loops in fp64 over each of them alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from emojax.nn.recurrent import Recurrent

SEGMENT = np.array([[1, 1, 1, 1, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2, 2], [0] * 8], np.int32)
B, L, D, F = 3, 8, 5, 6


def walked(cell, x, inputs, bias, kernel):
    """The states of one conversation [n, D], equations as in the papers."""
    h = c = np.zeros(kernel.shape[0])
    found = []
    for each in x @ inputs + bias:
        if cell == "lstm":
            enter, keep, new, show = np.split(each + h @ kernel, 4)
            c = expit(keep + 1) * c + expit(enter) * np.tanh(new)
            h = expit(show) * np.tanh(c)
        else:
            of_reset, of_keep, of_new = np.split(kernel, 3, axis=1)
            reset, keep, new = np.split(each, 3)
            reset, keep = expit(reset + h @ of_reset), expit(keep + h @ of_keep)
            h = keep * h + (1 - keep) * np.tanh(new + reset * (h @ of_new))
        found.append(h)
    return np.array(found)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_each_conversation_is_walked_through_alone(cell, causal):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(B, L, D)).astype(np.float32)
    module = Recurrent(cell, F, causal, np.float32)
    variables = module.init(jax.random.key(0), jnp.asarray(x), jnp.asarray(SEGMENT))
    variables = jax.tree.map(lambda y: y + 0.3 * draw.normal(size=y.shape), variables)
    found = np.asarray(jax.jit(module.apply)(variables, x, SEGMENT))
    params = jax.tree.map(lambda y: np.asarray(y, np.float64), variables["params"])
    for row, segment in enumerate(SEGMENT):
        for conversation in set(segment):
            where = segment == conversation
            wanted = []
            for way in ("forward",) if causal else ("forward", "backward"):
                step = 1 if way == "forward" else -1
                affine = params[f"{way}_gates"]
                states = walked(
                    cell, x[row, where].astype(np.float64)[::step], affine["kernel"],
                    affine["bias"], params[f"{way}_state"],
                )  # fmt: skip
                wanted.append(states[::step])
            np.testing.assert_allclose(
                found[row, where], np.concatenate(wanted, -1), rtol=0, atol=2e-6
            )


def test_half_precision_keeps_its_dtype():
    x = jnp.ones((1, 4, D))
    module = Recurrent("lstm", F, False, jnp.bfloat16)
    found, _ = module.init_with_output(jax.random.key(0), x, jnp.ones((1, 4), jnp.int32))
    assert found.dtype == jnp.bfloat16
