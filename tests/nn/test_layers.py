"""Layers against numpy, PyTorch where it is installed, and what they promise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.nn.layers import (
    Dropout,
    LayerNorm,
    Standardise,
    dense,
    identity_statistics,
    statistics,
)
from emojax.types import MODALITIES

DRAW = np.random.default_rng(0)
X = (5 + 3 * DRAW.normal(size=(2, 4, 6))).astype(np.float32)


def norm(x, scale, bias, epsilon):
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


@pytest.mark.parametrize(
    ("leading", "epsilon"), [((), 1e-5), ((4,), 1e-6), ((2, 4), 1e-5)], ids=str
)
def test_layer_norm_is_its_formula(leading, epsilon):
    shape = (*leading, 6)
    scale, bias = (DRAW.normal(size=shape).astype(np.float32) for _ in range(2))
    layer = LayerNorm(epsilon, leading)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), X)["params"]
    assert {name: leaf.shape for name, leaf in shapes.items()} == {"scale": shape, "bias": shape}
    y = jax.jit(layer.apply)({"params": {"scale": scale, "bias": bias}}, X)
    np.testing.assert_allclose(y, norm(X, scale, bias, epsilon), rtol=0, atol=1e-5)


def test_layer_norm_and_its_gradient_are_pytorchs():
    torch = pytest.importorskip("torch")
    scale, bias, weight = (DRAW.normal(size=shape) for shape in ((6,), (6,), X.shape))
    x = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    theirs = torch.nn.functional.layer_norm(x, (6,), torch.tensor(scale), torch.tensor(bias), 1e-5)
    (theirs * torch.tensor(weight)).sum().backward()
    params = {"params": {"scale": jnp.float32(scale), "bias": jnp.float32(bias)}}
    gradient = jax.jit(
        jax.grad(lambda x: (LayerNorm().apply(params, x) * jnp.float32(weight)).sum())
    )(X)
    np.testing.assert_allclose(gradient, x.grad.numpy(), rtol=0, atol=1e-5)


def test_layer_norm_of_half_precision_is_computed_in_single():
    half = jnp.asarray(1000 + X, jnp.bfloat16)
    params = {"params": {"scale": jnp.ones(6), "bias": jnp.zeros(6)}}
    y = jax.jit(LayerNorm().apply)(params, half)
    assert y.dtype == jnp.bfloat16
    wanted = norm(np.asarray(half, np.float64), 1, 0, 1e-5)
    np.testing.assert_allclose(np.asarray(y, np.float64), wanted, rtol=2**-8, atol=1e-6)


def test_standardise_uses_its_statistics_and_starts_as_the_identity():
    mean, deviation = DRAW.normal(size=6), 0.5 + DRAW.random(6)
    fresh = jax.jit(Standardise().init)(jax.random.key(0), X)
    assert "params" not in fresh
    np.testing.assert_array_equal(jax.jit(Standardise().apply)(fresh, X), X)
    fitted = {"statistics": {"mean": jnp.float32(mean), "deviation": jnp.float32(deviation)}}
    y = jax.jit(Standardise().apply)(fitted, X)
    np.testing.assert_allclose(y, (X - mean) / deviation, rtol=1e-5, atol=1e-5)


def test_statistics_are_a_collection_of_fp32_by_modality():
    widths = (3, 2, 4)
    mean = {m: DRAW.normal(size=w) for m, w in zip(MODALITIES, widths, strict=True)}
    deviation = {m: DRAW.random(w) for m, w in zip(MODALITIES, widths, strict=True)}
    collection = statistics(mean, deviation)
    assert list(collection) == [f"{m}_standardise" for m in MODALITIES]
    for m in MODALITIES:
        entry = collection[f"{m}_standardise"]
        assert entry["mean"].dtype == entry["deviation"].dtype == np.float32
        np.testing.assert_array_equal(entry["mean"], mean[m].astype(np.float32))
        np.testing.assert_array_equal(entry["deviation"], deviation[m].astype(np.float32))
    for (m, width), entry in zip(
        zip(MODALITIES, widths, strict=True), identity_statistics(widths).values(), strict=True
    ):
        np.testing.assert_array_equal(entry["mean"], np.zeros(width), err_msg=m)
        np.testing.assert_array_equal(entry["deviation"], np.ones(width), err_msg=m)


def test_dropout_drops_only_where_its_stream_is_given():
    x = jnp.ones((50, 40))
    np.testing.assert_array_equal(Dropout(0.4).apply({}, x), x)
    key = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, rngs=key), x)
    y = np.asarray(Dropout(0.4).apply({}, x, rngs=key))
    np.testing.assert_allclose(np.unique(y), [0, 1 / 0.6], rtol=1e-6)
    assert np.mean(y > 0) == pytest.approx(0.6, abs=0.05)


def test_a_dense_layer_stores_single_and_computes_what_it_is_told():
    layer = dense(3, jnp.bfloat16)
    variables = jax.jit(layer.init)(jax.random.key(0), X)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert layer.apply(variables, X).dtype == jnp.bfloat16
