"""MobileNetV2 against transformers, and that a frame knows nothing of its neighbours."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.errors import ConfigError
from emojax.interop.vision import read_vision_encoder
from emojax.nn.encoders.mobilenet import MobileNetConfig, pooled
from tests.goldens.make_mobilenet import FOLDER, SIZES, frames


@pytest.fixture(scope="module")
def encoder():
    return read_vision_encoder(FOLDER / "model.safetensors")


@pytest.mark.parametrize("size", SIZES)
def test_it_is_that_of_transformers(encoder, size):
    expected = np.load(FOLDER / "expected.npz")
    found = jax.jit(encoder.module.apply)(encoder.variables, frames(size))
    assert np.abs(expected[f"map_{size}"]).max() > 0.5
    np.testing.assert_allclose(found, expected[f"map_{size}"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(pooled(found), expected[f"pooled_{size}"], rtol=0, atol=1e-5)


def test_a_frame_depends_on_itself_alone_and_every_parameter_learns(encoder):
    given = jnp.asarray(frames(64))

    def first(params, given):
        variables = {**encoder.variables, "params": params}
        return jnp.square(encoder.module.apply(variables, given)[0]).sum()

    of_params, of_frames = jax.jit(jax.grad(first, (0, 1)))(encoder.variables["params"], given)
    assert not np.any(of_frames[1:])
    assert np.any(of_frames[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path(of_params):
        assert np.isfinite(leaf).all(), path
        assert np.any(leaf), path


@pytest.mark.parametrize(
    ("multiplier", "widths"),
    [(1.0, (32, 16, 24, 320, 1280)), (1.4, (48, 24, 32, 448, 1792)), (0.35, (16, 8, 8, 112, 1280))],
)
def test_channels_are_those_of_the_published_models(multiplier, widths):
    config = MobileNetConfig(multiplier=multiplier)
    assert (*map(config.channels, (32, 16, 24, 320)), config.width) == widths


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"multiplier": 0.0}, "multiplier must be positive"),
        ({"epsilon": float("nan")}, "epsilon must be positive"),
        ({"padding": "valid"}, "padding is"),
    ],
)
def test_impossible_sizes_are_refused(values, problem):
    with pytest.raises(ConfigError, match=problem):
        MobileNetConfig(**values)
