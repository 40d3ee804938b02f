"""Shifted products against XLA's grouped convolution, values and gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from emojax.ops.depthwise import depthwise_convolution, same_padding


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "centred"])
def test_it_is_the_grouped_convolution(size, stride, padding):
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.normal(size=(2, *size, 5)), jnp.float32)
    kernel = jnp.asarray(draw.normal(size=(3, 3, 5)), jnp.float32)
    pads = same_padding(size, 3, stride) if padding == "same" else ((1, 1), (1, 1))

    def grouped(x, kernel):
        return lax.conv_general_dilated(
            x, kernel[:, :, None], (stride, stride), "SAME" if padding == "same" else pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=5,
        )  # fmt: skip

    def ours(x, kernel):
        return depthwise_convolution(x, kernel, stride, pads)

    ours, grouped = jax.jit(ours), jax.jit(grouped)
    np.testing.assert_allclose(ours(x, kernel), grouped(x, kernel), rtol=0, atol=3e-6)
    assert ours(x, kernel).shape[1:3] == tuple(-(-length // stride) for length in size)
    for argument in (0, 1):
        found, wanted = (
            jax.jit(jax.grad(lambda *a, f=f: jnp.sum(jnp.sin(f(*a))), argument))(x, kernel)
            for f in (ours, grouped)
        )
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)
