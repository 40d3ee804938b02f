"""Keys that roll as in the published code, fill included, against its definition in fp64."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.diff_attention import differential_attention
from emojax.ops.random import keep_pair, seeds
from tests.ops.oracles import assert_matches
from tests.ops.test_diff_attention import IMPLEMENTATIONS, KERNELS

B, L, H, d = 3, 7, 2, 3
# Two conversations and padding; one that fills its row; one utterance and a row nearly empty.
SEGMENT = np.array([[1, 1, 1, 2, 2, 2, 0], [1] * L, [1] + [0] * (L - 1)], np.int32)


def inputs() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    return {
        name: draw.normal(scale=s, size=(B, L, H, d))
        for name, s in zip("qkv", (2, 2, 1), strict=True)
    }


def published(q, k, v, mask, scale, keep=1.0):
    """The published attention as PyTorch code would compute it, roll and fill included, fp64."""
    fill = np.where(mask, 0.0, 1.0)[:, None, None, :]

    def scores(keys):
        plain = np.einsum("bihd,bjhd->bhij", q, keys) * scale
        return scipy.special.softmax(np.where(fill > 0, -1e9, plain), axis=-1)

    return np.einsum("bhij,bjhd->bihd", keep * (scores(k) - scores(np.roll(k, 1, axis=1))), v)


def ours(implementation: str, spare: int = 0, **options):
    """The operator on rows with `spare` columns beyond their extent, as a function of q, k, v."""
    columns = [(0, 0), (0, spare)]
    segment = jnp.pad(jnp.asarray(SEGMENT > 0, jnp.int32), columns)

    def attend(q, k, v):
        # Beyond the extent stands what no result may depend on.
        q, k, v = (jnp.pad(y, [*columns, (0, 0), (0, 0)], constant_values=9) for y in (q, k, v))
        found = differential_attention(
            q, k, v, 1.0, segment=segment, rolled=jnp.full(B, L), scale=0.2,
            implementation=implementation, interpret=implementation in KERNELS, **options,
        )  # fmt: skip
        return found[:, :L]

    return attend


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("spare", [0, 2])
def test_keys_roll_into_padding(implementation, spare):
    assert_matches(
        ours(implementation, spare),
        lambda **x: published(**x, mask=SEGMENT > 0, scale=0.2),
        inputs(),
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_dropout_takes_entries_of_the_difference(implementation):
    seed, column = seeds(jax.random.key(7), B, H), jnp.arange(L, dtype=jnp.int32)
    kept = np.asarray(keep_pair(seed[..., None, None], column[:, None], column, 0.4))
    assert 0.5 < kept.mean() < 0.7
    assert_matches(
        ours(implementation, 2, drop_rate=0.4, seed=seed),
        functools.partial(published, mask=SEGMENT > 0, scale=0.2, keep=kept / 0.6),
        inputs(),
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_conversation_of_nothing_is_zero(implementation):
    def nothing(x):
        return differential_attention(
            **x, lam=1.0, segment=jnp.zeros((1, 4), jnp.int32), rolled=jnp.array([4]), scale=0.2,
            implementation=implementation, interpret=implementation in KERNELS,
        )  # fmt: skip

    x = {name: jnp.ones((1, 4, 2, 3)) for name in "qkv"}
    assert not np.asarray(nothing(x)).any()
    gradients = jax.grad(lambda x: 1e6 * nothing(x).sum())(x)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradients))


def test_heads_that_share_keys_find_what_they_find_alone():
    x = {name: jnp.asarray(y, jnp.float32) for name, y in inputs().items()}
    one = {name: x[name][:, :, :1] for name in "kv"}
    alone = {name: jnp.repeat(y, H, axis=2) for name, y in one.items()}
    np.testing.assert_allclose(
        ours("xla")(x["q"], **one), ours("xla")(x["q"], **alone), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("unfit", [{"causal": True}, {"window": 3}, {"lam": None}])
def test_what_rolled_keys_do_not_go_with(unfit):
    x = {name: jnp.ones((1, 4, 2, 3)) for name in "qkv"}
    options = {"lam": 1.0, "segment": jnp.ones((1, 4), jnp.int32), "rolled": jnp.array([4])} | unfit
    with pytest.raises(ValueError, match="rolled keys need lam and whole rows"):
        differential_attention(**x, **options)
