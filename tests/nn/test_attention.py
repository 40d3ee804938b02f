"""The attention layers against their equations in fp64, from their own parameters."""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.nn.attention import DifferentialAttention, FeedForward, rotate
from emojax.nn.convolution import Delta
from tests.ops import oracles

B, L, D, H = 2, 6, 8, 2
SEGMENT = np.array([[1, 1, 1, 1, 2, 2], [1, 1, 1, 0, 0, 0]], np.int32)
POSITION = np.array([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 0, 0]], np.int32)
X = np.random.default_rng(0).normal(size=(B, L, D)).astype(np.float32)
compiled_rotate = jax.jit(rotate)


def random_params(module, *inputs):
    """Parameters of the right shapes, every one of them away from its initial value."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda s: (0.5 * draw.normal(size=s.shape)).astype(np.float32), shapes)


def turned(x, position):
    """Pairs (i, i + half) as complex numbers, multiplied by exp(i angle); an odd rest stays."""
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-np.arange(half) / max(half, 1))
    z = (x[..., :half] + 1j * x[..., half : 2 * half]) * np.exp(
        1j * position[..., None, None] * rate
    )
    return np.concatenate([z.real, z.imag, x[..., 2 * half :]], axis=-1)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_rotation_is_a_complex_product(width):
    x = np.random.default_rng(2).normal(size=(B, L, H, width)).astype(np.float32)
    ours = compiled_rotate(x, POSITION * 7)
    np.testing.assert_allclose(ours, turned(x.astype(np.float64), POSITION * 7), atol=1e-5)


def test_products_of_rotated_vectors_depend_on_differences_of_position():
    q, k = np.random.default_rng(3).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def product(i, j):
        at = lambda x, p: np.asarray(compiled_rotate(x, np.array([[p]], np.int32)))  # noqa: E731
        return float((at(q, i) * at(k, j)).sum())

    assert product(5, 2) == pytest.approx(product(13, 10), abs=1e-5)
    assert product(5, 2) != pytest.approx(product(2, 5), abs=1e-2)
    assert product(0, 0) == pytest.approx(float((q * k).sum()), abs=1e-6)


def attention_oracle(params, x, variant, causal, depth):
    """The layer as its docstring and the cited papers define it."""
    kernel = {
        name: np.asarray(p["kernel"], np.float64) for name, p in params.items() if "kernel" in p
    }
    d = D // H

    def project(name, groups=1, turn=True):
        y = (x @ kernel[name]).reshape(B, L, H, groups, -1)
        parts = [y[:, :, :, g] for g in range(groups)]
        return [turned(part, POSITION) if turn else part for part in parts]

    q2 = k2 = lam = None
    if variant == "dual":
        (q, q2), (k, k2) = project("query", 2), project("key", 2)
        a, b, c, e = np.asarray(params["lambda"], np.float64)
        first = 0.8 - 0.6 * math.exp(-0.3 * depth)
        lam = np.array(math.exp(a @ b) - math.exp(c @ e) + first)
    elif variant == "v2":
        (q, q2), (k,) = project("query", 2), project("key")
        k2 = k
        lam = scipy.special.expit(x @ kernel["lambda"] + params["lambda"]["bias"])
    else:
        (q,), (k,) = project("query"), project("key")
        lam = None if variant == "none" else np.asarray(params["lambda"], np.float64)
    assert q.shape[-1] == (d // 2 if variant == "dual" else d)
    (v,) = project("value", turn=False)
    y = oracles.differential_attention(q, k, v, lam, q2, k2, segment=SEGMENT, causal=causal)
    if variant == "dual":
        y = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + 1e-5) * params["head_scale"]
        y *= 1 - (0.8 - 0.6 * math.exp(-0.3 * depth))
    return y.reshape(B, L, D) @ kernel["out"]


@pytest.mark.parametrize(
    ("variant", "causal", "depth"),
    [("temporal", True, 0), ("dual", False, 2), ("v2", False, 0), ("none", True, 0)],
)
def test_differential_attention_is_its_equation(variant, causal, depth):
    layer = DifferentialAttention(H, variant, causal, 0.0, depth, jnp.float32)
    params = random_params(layer, X, SEGMENT, POSITION)
    ours = jax.jit(layer.apply)({"params": params}, X, SEGMENT, POSITION)
    wanted = attention_oracle(params, X.astype(np.float64), variant, causal, depth)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
    assert (np.asarray(ours)[SEGMENT == 0] == 0).all()


def test_lambda_starts_where_the_papers_say():
    layers = {
        (variant, depth): DifferentialAttention(H, variant, False, 0.0, depth, jnp.float32)
        for variant, depth in [("dual", 0), ("dual", 5), ("temporal", 0)]
    }
    assert layers["dual", 0].lambda_start == pytest.approx(0.2)
    assert layers["dual", 5].lambda_start == pytest.approx(0.8 - 0.6 * math.exp(-1.5))
    start = jax.jit(layers["temporal", 0].init)(jax.random.key(0), X, SEGMENT, POSITION)
    np.testing.assert_array_equal(start["params"]["lambda"], [0.5] * H)


def test_feed_forward_has_an_exact_gelu():
    layer = FeedForward(3, 0.0, jnp.float32)
    params = random_params(layer, X)
    h = X.astype(np.float64) @ params["in"]["kernel"] + params["in"]["bias"]
    assert h.shape[-1] == 3 * D
    h *= (1 + scipy.special.erf(h / np.sqrt(2))) / 2
    wanted = h @ params["out"]["kernel"] + params["out"]["bias"]
    ours = jax.jit(layer.apply)({"params": params}, X)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_delta_convolves_inside_a_conversation(causal):
    layer = Delta(causal, jnp.float32)
    params = random_params(layer, X, SEGMENT)
    change = np.zeros((B, L, D))
    for b, i, tap in itertools.product(range(B), range(L), range(3)):
        j = i + tap - (2 if causal else 1)
        if 0 <= j < L and SEGMENT[b, j] == SEGMENT[b, i]:
            change[b, i] += params["kernel"][tap] * X[b, j]
    centred = change - change.mean(-1, keepdims=True)
    normed = centred / np.sqrt(change.var(-1, keepdims=True) + 1e-5)
    normed = normed * params["norm"]["scale"] + params["norm"]["bias"]
    gate = scipy.special.expit(X @ params["gate"]["kernel"] + params["gate"]["bias"])
    wanted = X + params["scale"] * gate * normed
    ours = jax.jit(layer.apply)({"params": params}, X, SEGMENT)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
