"""Differential attention, values and gradients, against the fp64 definition written as loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.diff_attention.api import differential_attention
from emojax.ops.diff_attention.published import published_attention
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.ops.random import keep_pair, seeds
from tests.ops import oracles
from tests.ops.oracles import assert_matches

B, L, H, d, e = 3, 7, 2, 3, 4
# Two conversations and padding; one that fills its row; one utterance and a row nearly empty.
SEGMENT = np.array([[1, 1, 1, 2, 2, 2, 0], [1] * L, [1] + [0] * (L - 1)], np.int32)
CASES = {
    "plain": ("none", {}),
    "plain, causal": ("none", {"causal": True}),
    "temporal": ("temporal", {}),
    "temporal, causal": ("temporal", {"causal": True}),
    "temporal, window": ("temporal", {"window": 1}),
    "temporal, causal window of one": ("temporal", {"causal": True, "window": 0}),
    "dual, scaled": ("dual", {"scale": 0.3}),
    "dual, causal window": ("dual", {"causal": True, "window": 2}),
    "lambda per token": ("v2", {}),
    "lambda per token, window": ("v2", {"window": 2}),
}


def inputs(variant: str) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(1)
    shapes = {"q": (B, L, H, d), "k": (B, L, H, d), "v": (B, L, H, e)}
    if variant != "none":
        shapes["lam"] = {"temporal": (H,), "dual": (), "v2": (B, L, H)}[variant]
    if variant in ("dual", "v2"):
        shapes |= {"q2": (B, L, H, d), "k2": (B, L, H, d)}
    return {name: np.asarray(2 * draw.normal(size=shape)) for name, shape in shapes.items()}


@pytest.mark.parametrize("case", CASES)
def test_matches_the_definition(case):
    variant, options = CASES[case]
    assert_matches(
        lambda **x: differential_attention(**x, **options, segment=jnp.asarray(SEGMENT)),
        lambda **x: oracles.differential_attention(**x, **options, segment=SEGMENT),
        inputs(variant),
    )


def test_dropout_falls_on_the_combined_map():
    key, rate = jax.random.key(3), 0.4
    column = jnp.arange(L, dtype=jnp.int32)
    keep = np.asarray(
        keep_pair(seeds(key, B, H)[..., None, None], column[:, None], column, rate) / (1 - rate)
    )
    assert 0 < (keep == 0).mean() < 1
    assert_matches(
        lambda **x: differential_attention(
            **x, segment=jnp.asarray(SEGMENT), drop_rate=rate, key=key
        ),
        lambda **x: oracles.differential_attention(**x, segment=SEGMENT, keep=keep),
        inputs("temporal"),
    )


@pytest.mark.parametrize("variant", ["none", "temporal", "v2"])
def test_padding_gets_zeros_and_zero_gradients(variant):
    x = {name: jnp.asarray(value, jnp.float32) for name, value in inputs(variant).items()}
    padding = SEGMENT == 0
    # Cotangents so large that a division by the smallest number, unless masked, overflows.
    weight = jnp.full((B, L, H, e), 1e4)

    def scalar(x):
        y = differential_attention(**x, segment=jnp.asarray(SEGMENT))
        return (y * weight).sum(), y

    (_, y), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(x)
    assert (np.asarray(y)[padding] == 0).all()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        if gradient.ndim >= 3:
            assert (np.asarray(gradient)[padding] == 0).all(), name
            assert (np.asarray(gradient)[1] != 0).any(), name


def test_large_scores_do_not_overflow():
    x = {name: 100 * value for name, value in inputs("dual").items() if name != "lam"}
    y = differential_attention(
        **{name: jnp.asarray(value, jnp.float32) for name, value in x.items()},
        lam=jnp.float32(0.3), segment=jnp.asarray(SEGMENT),
    )  # fmt: skip
    wanted = oracles.differential_attention(**x, lam=np.array(0.3), segment=SEGMENT)
    # Scores of 1e5 are known to 1e-2 in fp32, so only where one key wins clearly is y known.
    assert np.isfinite(y).all()
    close = np.isclose(y, wanted, rtol=0, atol=0.01 * np.abs(x["v"]).max())
    assert close.mean() > 0.95


def test_a_second_map_needs_all_its_parts():
    x = {name: jnp.asarray(value, jnp.float32) for name, value in inputs("dual").items()}
    for missing in ("q2", "k2", "lam"):
        rest = {name: value for name, value in x.items() if name != missing}
        with pytest.raises(ValueError, match="q2, k2 and lam together"):
            differential_attention(**rest, segment=jnp.asarray(SEGMENT))


def published(q, k, v, mask, scale, keep=1.0):
    """The published attention as PyTorch code would compute it, roll and fill included, fp64."""
    fill = np.where(mask, 0.0, 1.0)[:, None, None, :]

    def scores(keys):
        plain = np.einsum("bihd,bjhd->bhij", q, keys) * scale
        return scipy.special.softmax(np.where(fill > 0, -1e9, plain), axis=-1)

    return np.einsum("bhij,bjhd->bihd", keep * (scores(k) - scores(np.roll(k, 1, axis=1))), v)


@pytest.mark.parametrize("spare", [0, 2])
def test_published_attention_rolls_keys_into_padding(spare):
    x = {name: value for name, value in inputs("none").items() if name != "v"}
    x["v"] = np.random.default_rng(2).normal(size=(B, L, H, d))
    mask = SEGMENT > 0
    columns = [(0, 0), (0, spare)]
    longer = jnp.pad(jnp.asarray(mask), columns)
    extent = jnp.full(B, L)

    def ours(**x):
        # Beyond the extent stands what no result may depend on.
        x = {n: jnp.pad(y, [*columns, (0, 0), (0, 0)], constant_values=9) for n, y in x.items()}
        return published_attention(**x, mask=longer, extent=extent, scale=0.2)[:, :L]

    assert_matches(ours, lambda **x: published(**x, mask=mask, scale=0.2), x)


def test_published_attention_drops_entries_of_the_difference():
    x = {name: value for name, value in inputs("none").items() if name != "v"}
    x["v"] = np.random.default_rng(2).normal(size=(B, L, H, d))
    mask, extent, key = SEGMENT > 0, jnp.full(B, L), jax.random.key(7)
    keep = oracles.kept_by_row(key, 0.4, (B, H, L, L)) / 0.6
    assert 0 < (keep == 0).mean() < 1
    options = {"mask": jnp.asarray(mask), "extent": extent, "drop_rate": 0.4, "key": key}
    assert_matches(
        lambda **x: published_attention(**x, **options, scale=0.2),
        lambda **x: published(**x, mask=mask, scale=0.2, keep=keep),
        x,
    )


def test_published_attention_of_a_conversation_of_nothing_is_zero():
    x = {name: jnp.ones((1, 4, 2, 3)) for name in "qkv"}

    def ours(x):
        nobody = jnp.zeros((1, 4), bool)
        return published_attention(**x, mask=nobody, extent=jnp.array([4]), scale=0.2)

    assert not np.asarray(ours(x)).any()
    gradients = jax.grad(lambda x: 1e6 * ours(x).sum())(x)
    assert not any(np.asarray(g).any() for g in jax.tree.leaves(gradients))


def test_masked_softmax_is_softmax_of_what_is_left():
    draw = np.random.default_rng(0)
    scores, mask = 50 * draw.normal(size=(40, 9)), draw.random((40, 9)) < 0.4
    mask[:5] = False
    ours = np.asarray(jax.jit(masked_softmax)(jnp.asarray(scores, jnp.float32), mask))
    wanted = np.zeros_like(scores)
    for row, (values, seen) in enumerate(zip(scores, mask, strict=True)):
        wanted[row, seen] = scipy.special.softmax(values[seen]) if seen.any() else 0
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
    assert (ours[~mask] == 0).all()


def test_the_oracle_agrees_with_a_case_done_by_hand():
    one = np.ones((1, 2, 1, 1))
    v = np.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    y = oracles.differential_attention(one, one, v, np.array(0.5), segment=np.ones((1, 2), int))
    # First map uniform, mean 3; second map sees only column 1 (key 0 moved on), 0.5 x 4.
    assert y.ravel().tolist() == [1.0, 1.0]
