"""The published attention, roll and fill included, against its definition in fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.ops.diff_attention.published import published_attention
from tests.ops import oracles
from tests.ops.oracles import assert_matches

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


@pytest.mark.parametrize("spare", [0, 2])
def test_published_attention_rolls_keys_into_padding(spare):
    x = inputs()
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
    x = inputs()
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
