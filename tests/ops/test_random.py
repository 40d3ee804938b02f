"""The hashed dropout mask is as good as independent coin tosses, by the usual tests.

Keys are fixed, so a test either always passes or always fails: p values above .001 are asked of a
handful of statistics, which true coin tosses would nearly always satisfy.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from emojax.ops.random import dropout, keep_mask

N = 1 << 18
LEAST_P = 1e-3
compiled_mask = jax.jit(keep_mask, static_argnums=(1, 2))


def masks(rate, keys, n=N):
    return np.stack([np.asarray(compiled_mask(key, rate, (n,))) for key in keys])


def independence(a, b):
    """p value of the chi-square test on the 2 x 2 table of two boolean arrays."""
    table = np.bincount(2 * a.astype(int).ravel() + b.astype(int).ravel(), minlength=4)
    return scipy.stats.chi2_contingency(table.reshape(2, 2), correction=False).pvalue


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_share_kept_is_one_minus_the_rate(rate):
    for mask in masks(rate, jax.random.split(jax.random.key(1), 4)):
        assert scipy.stats.binomtest(int(mask.sum()), N, 1 - rate).pvalue > LEAST_P


def test_extreme_rates():
    assert masks(0.0, [jax.random.key(0)]).all()
    assert masks(1 - 1e-12, [jax.random.key(0)]).sum() <= 1


def test_mask_is_reproducible_and_its_shape_does_not_matter():
    key = jax.random.key(7)
    flat = masks(0.3, [key, key])
    np.testing.assert_array_equal(flat[0], flat[1])
    shaped = compiled_mask(key, 0.3, (4, N // 8, 2))
    np.testing.assert_array_equal(np.ravel(shaped), flat[0])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_keys_give_independent_masks(seed):
    # Neighbouring seeds, keys of one split, and keys folded in, as steps and layers do. (jax gives
    # `fold_in(key, i)` and `split(key)[i]` the same key, so the number folded in is a large one.)
    base = jax.random.key(seed)
    keys = [
        base,
        jax.random.key(seed + 1),
        *jax.random.split(base, 3),
        jax.random.fold_in(base, 99),
    ]
    drawn = masks(0.5, keys)
    for i in range(len(keys)):
        for j in range(i):
            assert independence(drawn[i], drawn[j]) > LEAST_P / 10, (i, j)
    # Neither is the mask of one seed the next seed's moved by a little.
    for lag in (1, 2):
        assert independence(drawn[0][lag:], drawn[1][:-lag]) > LEAST_P / 10
        assert independence(drawn[1][lag:], drawn[0][:-lag]) > LEAST_P / 10


@pytest.mark.parametrize("lag", [1, 2, 3, 7, 64, 1024, 4096, 65536])
def test_elements_of_a_mask_are_independent_at_every_lag(lag):
    mask = masks(0.5, [jax.random.key(3)])[0]
    assert independence(mask[:-lag], mask[lag:]) > LEAST_P


def test_every_pattern_of_eight_neighbours_is_as_frequent():
    mask = masks(0.5, [jax.random.key(4)])[0]
    patterns = np.packbits(mask.reshape(-1, 8), axis=1)[:, 0]
    counts = np.bincount(patterns, minlength=256)
    assert scipy.stats.chisquare(counts).pvalue > LEAST_P


def test_an_element_is_kept_as_often_under_many_keys():
    drawn = masks(0.5, jax.random.split(jax.random.key(5), 400), n=512)
    counts = drawn.sum(0)
    statistic = ((counts - 200) ** 2 / 100).sum()  # squares of standard normals, nearly
    assert LEAST_P < scipy.stats.chi2.sf(statistic, 512) < 1 - LEAST_P


def test_dropout_scales_what_it_keeps_and_is_the_identity_without_a_key():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 33)), jnp.float32)
    key = jax.random.key(0)
    kept = np.asarray(keep_mask(key, 0.3, x.shape))
    value, pull = jax.vjp(lambda x: dropout(x, 0.3, key), x)
    np.testing.assert_allclose(value, np.where(kept, np.asarray(x) / 0.7, 0), rtol=1e-6)
    (gradient,) = pull(jnp.ones_like(x))
    np.testing.assert_allclose(gradient, kept / 0.7, rtol=1e-6)
    assert dropout(x, 0.3, None) is x
    assert dropout(x, 0.0, key) is x
    assert dropout(x.astype(jnp.bfloat16), 0.3, key).dtype == jnp.bfloat16
