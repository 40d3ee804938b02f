"""From frames to one vector: padding is nothing, order and gaps count."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.nn.encoders.frames import FaceEncoder, FrameEncoder, pooled_over_frames
from emojax.nn.encoders.mobilenet import MobileNetConfig

U, T, D, F = 3, 9, 5, 6


@functools.lru_cache
def made(cell: str = "gru"):
    module = FrameEncoder(F, cell)
    shapes = jnp.zeros((U, T, D)), jnp.ones((U, T), bool)
    variables = jax.jit(module.init)(jax.random.key(0), *shapes)
    variables = jax.tree.map(
        lambda y: y + 0.1 * jax.random.normal(jax.random.key(y.size), y.shape), variables
    )
    return jax.jit(module.apply), variables


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(0, T), min_size=U, max_size=U),
    seed=st.integers(0, 1000),
    rubbish=st.sampled_from([0.0, 1e6, np.inf, np.nan]),
    cell=st.sampled_from(["gru", "lstm"]),
)
def test_padding_changes_no_output(lengths, seed, rubbish, cell):
    apply, variables = made(cell)
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(U, T, D)).astype(np.float32)
    present = np.arange(T) < np.array(lengths)[:, None]
    present &= draw.random((U, T)) < 0.8
    clean = apply(variables, np.where(present[..., None], x, 0), present)
    spoilt = apply(variables, np.where(present[..., None], x, np.float32(rubbish)), present)
    np.testing.assert_array_equal(spoilt, clean)
    longer = np.pad(x, ((0, 0), (0, T), (0, 0)), constant_values=rubbish)
    wider = apply(variables, longer, np.pad(present, ((0, 0), (0, T))))
    np.testing.assert_allclose(wider, clean, rtol=0, atol=1e-6)
    assert not np.any(clean[~present.any(1)])
    # Among copies of itself, an utterance is what it is among others.
    alone = apply(variables, x[[0] * U], present[[0] * U])
    np.testing.assert_allclose(alone[0], clean[0], rtol=0, atol=1e-6)


def test_order_and_a_single_odd_frame_count():
    apply, variables = made()
    x = np.random.default_rng(1).normal(size=(1, T, D)).astype(np.float32)
    present = np.ones((1, T), bool)
    plain = apply(variables, x, present)
    assert np.abs(apply(variables, x[:, ::-1], present) - plain).max() > 1e-3
    odd = x.copy()
    odd[0, 4] += 2
    assert np.abs(apply(variables, odd, present) - plain).max() > 1e-2
    gap = present.copy()
    gap[0, 4] = False
    # A missing frame keeps its place: leaving it out altogether is something else.
    shorter = np.delete(x, 4, axis=1)
    there, gone = apply(variables, x, gap), apply(variables, shorter, np.ones((1, T - 1), bool))
    assert np.abs(there - gone).max() > 1e-3


def test_pooling_is_the_mean_and_the_maximum_of_what_is_there():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(U, T, D)).astype(np.float32)
    present = draw.random((U, T)) < 0.5
    present[2] = False
    found = pooled_over_frames(jnp.asarray(x), jnp.asarray(present))
    for row, there, got in zip(x[:2], present[:2], found[:2], strict=True):
        wanted = np.concatenate([row[there].mean(0), row[there].max(0)])
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[2], 0)


def test_faces_are_trainable_from_the_pixels_on():
    module = FaceEncoder(F, MobileNetConfig(multiplier=0.1, whole_output=False))
    frames = np.random.default_rng(0).uniform(-1, 1, (2, 3, 32, 32, 3)).astype(np.float32)
    present = np.array([[True, True, False], [True, False, False]])
    there = jnp.asarray(present)
    variables = jax.jit(module.init)(jax.random.key(0), frames, present)

    def energy(params, frames):
        return jnp.square(module.apply({**variables, "params": params}, frames, there)).sum()

    spoilt = np.where(present[..., None, None, None], frames, np.float32(np.nan))
    value = jax.jit(jax.value_and_grad(energy, (0, 1)))
    clean_value, (of_params, _) = value(variables["params"], frames)
    spoilt_value, (spoilt_params, of_frames) = value(variables["params"], spoilt)
    assert clean_value == spoilt_value > 0
    assert np.any(of_frames[0, 1])
    assert not np.any(of_frames[~present])
    assert np.any(of_params["mobilenet"]["stem"]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, of_params, spoilt_params)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_half_precision_stays_close(cell):
    module = FrameEncoder(F, cell, jnp.bfloat16)
    _, variables = made(cell)
    x = np.random.default_rng(0).normal(size=(U, T, D)).astype(np.float32)
    present = np.ones((U, T), bool)
    found = jax.jit(module.apply)(variables, x, present)
    assert found.dtype == jnp.bfloat16
    wanted = made(cell)[0](variables, x, present)
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, rtol=0, atol=0.1)
