"""Agreement at each lag against numpy's correlation and against soft-DTW of each pair alone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.ops.lags import filled, lagged_correlation, lagged_soft_dtw
from emojax.ops.warping import soft_dtw

LAGS = (-7, 9)


@pytest.fixture(scope="module")
def series() -> tuple[np.ndarray, ...]:
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 4, 40)).astype(np.float32) * 3 + 50
    x_mask, y_mask = draw.random((2, 4, 40)) < 0.8
    x_mask[1, 30:], y_mask[2, :8], x_mask[3] = False, False, False
    x[~x_mask], y[~y_mask] = np.nan, np.inf
    return x, y, x_mask, y_mask


def test_correlations_are_numpys(series):
    found, count = jax.jit(lagged_correlation, static_argnums=4)(*series, LAGS)
    x, y, x_mask, y_mask = series
    for b in range(3):
        for k, lag in enumerate(range(LAGS[0], LAGS[1] + 1)):
            t = np.arange(max(0, -lag), min(40, 40 - lag))
            t = t[x_mask[b, t] & y_mask[b, t + lag]]
            assert count[b, k] == len(t)
            expected = np.corrcoef(x[b, t].astype(float), y[b, t + lag].astype(float))[0, 1]
            assert found[b, k] == pytest.approx(expected, abs=2e-5)
    assert not found[3].any()
    assert not count[3].any()


def test_a_series_that_never_moves_agrees_with_nothing(series):
    x, y, _, _ = series
    everywhere = jnp.ones(x.shape, bool)
    y = jnp.nan_to_num(jnp.asarray(y), posinf=0)
    found, _ = lagged_correlation(jnp.full(x.shape, 12345.678), y, everywhere, everywhere, LAGS)
    assert not np.asarray(found).any()


def test_soft_dtw_at_each_lag_is_that_of_the_pairs_there(series):
    found = lagged_soft_dtw(*series, LAGS, gamma=0.2, band=2)
    x, y, x_mask, y_mask = series
    warped = jax.jit(functools.partial(soft_dtw, gamma=0.2, band=2))

    def standard(z, mask):
        z = np.where(mask, (z - z[mask].mean()) / z[mask].std(), 0)
        known = np.flatnonzero(mask)
        inside = np.arange(known[0], known[-1] + 1)
        return np.interp(np.arange(40), known, z[mask]).astype(np.float32), inside

    for b in range(3):
        (left, from_x), (right, from_y) = standard(x[b], x_mask[b]), standard(y[b], y_mask[b])
        for k, lag in ((0, -7), (7, 0), (16, 9)):
            t = np.intersect1d(from_x, from_y - lag)
            masks = (jnp.asarray(np.isin(np.arange(40), at))[None] for at in (t, t + lag))
            expected = warped(left[None, :, None], right[None, :, None], *masks)[0] / len(t)
            assert found[b, k] == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert np.isposinf(found[3]).all()


def test_gaps_are_lines():
    x = jnp.array([[9.0, 1.0, jnp.nan, jnp.nan, 4.0, 7.0, jnp.nan]])
    mask = jnp.array([[False, True, False, False, True, True, False]])
    found, there = filled(x, mask)
    np.testing.assert_allclose(found, [[0, 1, 2, 3, 4, 7, 0]])
    np.testing.assert_array_equal(there, [[False, True, True, True, True, True, False]])


def test_lags_longer_than_the_series_are_refused(series):
    with pytest.raises(ValueError, match="lags from -7 to 40"):
        lagged_correlation(*map(jnp.asarray, series), (-7, 40))
