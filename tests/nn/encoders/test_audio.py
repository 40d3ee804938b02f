"""The audio encoder: what padding may not do, what training changes, what it can learn."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.nn.encoders.audio import AudioConfig, AudioEncoder

CONFIG = AudioConfig(
    channels=(4, 6, 8), time_blocks=2, recurrent=8, prosody_step=3, features=8, heads=2,
    dropout=0.1,
)  # fmt: skip
N, T, F, D, P = 3, 21, 12, 2, 5
FULL = np.array([T, 13, 1], np.int32)


def given_inputs(seed=0, length=T):
    draw = np.random.default_rng(seed)
    mel = draw.normal(size=(N, length, F, D)).astype(np.float32)
    return mel, draw.normal(size=(N, length, P)).astype(np.float32)


@pytest.fixture(scope="module", params=["batch", "layer"])
def encoder(request):
    """A model and variables in which nothing is 0 or 1 any more."""
    model = AudioEncoder(dataclasses.replace(CONFIG, norm=request.param))
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *given_inputs(), FULL))
    draw = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda x: x + np.abs(draw.normal(scale=0.2, size=x.shape)).astype(np.float32), variables
    )
    return jax.jit(model.apply), variables


@settings(max_examples=20, deadline=None)
@given(
    count=st.lists(st.integers(0, T), min_size=N, max_size=N),
    garbage=st.sampled_from([3.0, 1e9, np.inf, np.nan]),
)
def test_what_is_beyond_the_end_is_not_read(encoder, count, garbage):
    apply, variables = encoder
    count = np.array(count, np.int32)
    beyond = np.arange(T) >= count[:, None]
    mel, prosody = given_inputs()
    clean = apply(variables, mel, prosody, count)
    mel, prosody = mel.copy(), prosody.copy()
    mel[beyond], prosody[beyond] = garbage, garbage
    for a, b in zip(clean, apply(variables, mel, prosody, count), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()


def test_longer_rows_and_other_utterances_change_nothing(encoder):
    apply, variables = encoder
    mel, prosody = given_inputs()
    wide_mel, wide_prosody = given_inputs(seed=5, length=T + 8)
    wide_mel[:2, :T], wide_prosody[:2, :T] = mel[:2], prosody[:2]
    ours = apply(variables, mel, prosody, FULL)
    theirs = apply(variables, wide_mel, wide_prosody, np.array([T, 13, T + 8], np.int32))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a[:2], b[:2], atol=1e-5)
        assert np.abs(np.asarray(a[2]) - np.asarray(b[2])).max() > 1e-3


def test_without_functionals_there_are_no_parameters_of_them():
    model = AudioEncoder(dataclasses.replace(CONFIG, functionals=0.0))
    variables = jax.eval_shape(model.init, jax.random.key(0), *given_inputs(), FULL)
    assert "plain" not in variables["params"]["spectral_pool"]


def test_gradients_reach_every_parameter_and_padding_has_none():
    model = AudioEncoder(CONFIG)
    mel, prosody = given_inputs()
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), mel, prosody, FULL))

    def loss(params, mel):
        (a, b), _ = model.apply(
            {**variables, "params": params}, mel, jnp.asarray(prosody), jnp.asarray(FULL),
            rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"],
        )  # fmt: skip
        return jnp.square(a - 1).sum() + jnp.square(b - 1).sum()

    of_params, of_mel = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], mel)
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        # A bias before a norm over the batch shifts what is then centred.
        if "kernel" not in str(path[-2]) or path[-1].key != "bias":
            assert np.abs(leaf).max() > 0, path
    assert np.isfinite(of_mel).all()
    assert not np.asarray(of_mel)[1, 13:].any()


def test_it_learns_to_tell_a_rising_from_a_falling_pitch():
    """End to end, through recurrence and attention alone: no functional of a line tells."""
    draw = np.random.default_rng(0)
    up = draw.integers(0, 2, 24)
    line = np.linspace(-1, 1, T) * np.where(up, 1, -1)[:, None]
    prosody = (line[..., None] + 0.3 * draw.normal(size=(24, T, P))).astype(np.float32)
    mel = draw.normal(size=(24, T, F, D)).astype(np.float32)
    count = np.full(24, T, np.int32)
    model = AudioEncoder(dataclasses.replace(CONFIG, dropout=0.0, functionals=0.0))
    variables = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), mel, prosody, count))
    optimiser = optax.adam(1e-2)

    def loss(params):
        inputs = map(jnp.asarray, (mel, prosody, count))
        _, melodic = model.apply({**variables, "params": params}, *inputs)
        return optax.sigmoid_binary_cross_entropy(melodic[:, 0], up).mean()

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params)
        update, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, update), state, value

    params, state = variables["params"], optimiser.init(variables["params"])
    first = float(jax.jit(loss)(params))
    for _ in range(60):
        params, state, value = step(params, state)
    assert value < 0.1 * first
