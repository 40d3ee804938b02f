"""Warping against public implementations, against a loop in fp64, and against its own promises."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from emojax.ops.warping import alignment, dtw, path, soft_dtw
from tests.ops.oracles import assert_matches

GOLDEN = Path(__file__).parent.parent / "goldens" / "warping.npz"
PAIRS = 4


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as content:
        return dict(content)


@pytest.fixture(scope="module")
def batch(golden) -> tuple[np.ndarray, ...]:
    """All pairs as one batch, what is not there filled with NaN, some of it in the middle."""
    arrays, masks = [], []
    for name in "xy":
        each = [golden[f"{name}_{k}"] for k in range(PAIRS)]
        array = np.full((PAIRS, 13, 3), np.nan, np.float32)
        mask = np.zeros((PAIRS, 13), bool)
        for k, x in enumerate(each):
            mask[k, sorted(np.random.default_rng(k).permutation(13)[: len(x)])] = True
            array[k, mask[k]] = x
        arrays.append(array)
        masks.append(mask)
    return tuple(map(jnp.asarray, (*arrays, *masks)))


@functools.cache
def in_band(band: int):
    return jax.jit(functools.partial(dtw, band=band))


def slow(x: np.ndarray, y: np.ndarray, gamma: float = 0, band: int | None = None) -> float:
    """One pair by the recursion as it is written, in fp64."""
    n, m = len(x), len(y)
    if 0 in (n, m):
        return 0.0
    value = np.full((n + 1, m + 1), np.inf)
    value[0, 0] = 0
    for i in range(n):
        for j in range(m):
            if band is None or abs(i * (m - 1) - j * (n - 1)) <= band * (max(n, m) - 1):
                before = np.array([value[i, j], value[i, j + 1], value[i + 1, j]])
                least = before.min()
                if gamma and np.isfinite(least):
                    least -= gamma * np.log(np.exp((least - before) / gamma).sum())
                value[i + 1, j + 1] = np.square(x[i] - y[j]).sum() + least
    return value[n, m]


def test_distances_are_those_of_tslearn(golden, batch):
    expected = [golden[f"dtw_{k}"] for k in range(PAIRS)]
    np.testing.assert_allclose(jax.jit(dtw)(*batch), expected, rtol=1e-5)
    for gamma in (0.1, 2.0):
        expected = [golden[f"soft_{k}_{gamma}"] for k in range(PAIRS)]
        found = jax.jit(functools.partial(soft_dtw, gamma=gamma))(*batch)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("band", [1, 3])
def test_distances_in_a_band_are_those_of_dtaidistance(golden, batch, band):
    found = in_band(band)(*batch)
    np.testing.assert_allclose(found[0], golden[f"band_0_{band}"], rtol=1e-5)
    alone = in_band(band)(*(golden[f"{name}_0"][None].astype(np.float32) for name in "xy"))
    np.testing.assert_allclose(alone, found[:1], rtol=1e-6)


def test_soft_alignments_are_those_of_tslearn(golden, batch):
    """tslearn's comes from the published backward recursion."""
    found = jax.jit(functools.partial(alignment, gamma=2.0))(*batch)
    for k in range(PAIRS):
        expected = golden[f"align_{k}_2.0"]
        dense = np.zeros_like(expected)
        on = np.asarray(found.weight[k]) > 0
        np.add.at(dense, (found.i[k][on], found.j[k][on]), found.weight[k][on])
        np.testing.assert_allclose(dense, expected, atol=2e-5)
        assert found.weight[k].sum(-1).max() <= 1 + 1e-5


def test_paths_are_those_of_tslearn(golden, batch):
    i, j, there = jax.jit(path)(*batch)
    for k in range(PAIRS):
        found = np.stack([i[k], j[k]], -1)
        np.testing.assert_array_equal(found[there[k]], golden[f"path_{k}"])
        assert (found[~np.asarray(there[k])] == -1).all()


@pytest.mark.parametrize(("gamma", "band"), [(0.0, None), (0.0, 2), (0.7, None), (0.7, 2)])
def test_values_and_gradients(gamma, band):
    draw = np.random.default_rng(3)
    x_mask, y_mask = draw.random((5, 9)) < 0.7, draw.random((5, 6)) < 0.7
    x_mask[0], y_mask[0], x_mask[1], y_mask[2, 1:] = True, True, False, False
    mine = functools.partial(soft_dtw, gamma=gamma) if gamma else dtw

    def oracle(x, y):
        pairs = zip(x, x_mask, y, y_mask, strict=True)
        return np.array([slow(a[p], b[q], gamma, band) for a, p, b, q in pairs])

    given = {"x": draw.normal(size=(5, 9, 2)), "y": draw.normal(size=(5, 6, 2))}
    masks = jnp.asarray(x_mask), jnp.asarray(y_mask)
    assert_matches(lambda x, y: mine(x, y, *masks, band=band), oracle, given)


def test_gradients_in_fp64_by_finite_differences():
    draw = np.random.default_rng(4)
    x, y = draw.normal(size=(2, 8, 2)), draw.normal(size=(2, 8, 2))
    with jax.enable_x64(True):
        check_grads(
            jax.jit(functools.partial(soft_dtw, gamma=0.5, band=3)), (jnp.array(x), jnp.array(y)),
            order=1, modes=("rev",), atol=1e-8, rtol=1e-8, eps=1e-5,
        )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 99))
def test_any_lengths_have_a_path_in_any_band(n, m, band, seed):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(12, 1)), draw.normal(size=(12, 1))
    masks = np.arange(12) < n, np.arange(12) < m
    found = in_band(band)(*(jnp.float32(z[None]) for z in (x, y)), *(z[None] for z in masks))
    expected = slow(x[:n], y[:m], band=band)
    assert np.isfinite(expected)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_rows_without_frames_are_zero_and_silent():
    x = jnp.full((2, 4, 1), jnp.nan)
    mask = jnp.zeros((2, 4), bool).at[1, 2].set(True)
    x = x.at[1, 2].set(3.0)

    def total(x):
        return soft_dtw(x, x[:, ::-1] + 1, mask, mask[:, ::-1]).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(x)
    assert value == 1.0
    assert not np.nan_to_num(gradient).any()
    assert not np.isnan(gradient).any()


def test_padding_changes_no_bit():
    draw = np.random.default_rng(5)
    x, y = (jnp.float32(draw.normal(size=(1, 10, 2))) for _ in "xy")
    masks = [jnp.arange(10)[None] < n for n in (7, 6)]
    longer = [jnp.pad(z, ((0, 0), (0, 5), (0, 0)), constant_values=9.0) for z in (x, y)]
    more = [jnp.pad(z, ((0, 0), (0, 5))) for z in masks]
    for how in (dtw, soft_dtw):
        how = jax.jit(functools.partial(how, band=2))
        np.testing.assert_array_equal(how(x, y, *masks), how(*longer, *more))


def test_memory_beyond_the_band_does_not_grow_with_the_matrix():
    def temporary(length: int) -> int:
        x = jax.ShapeDtypeStruct((1, length, 1), jnp.float32)
        total = jax.grad(lambda x, y: soft_dtw(x, y, band=4).sum())
        return jax.jit(total).lower(x, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(2000) < 2.2 * temporary(1000)


def test_what_cannot_be_warped_is_refused():
    x = jnp.zeros((1, 4, 1))
    with pytest.raises(ValueError, match="band is 0"):
        dtw(x, x, band=0)
    with pytest.raises(ValueError, match="gamma must be positive"):
        soft_dtw(x, x, gamma=0.0)
    with pytest.raises(ValueError, match="room for a frame"):
        dtw(x, x[:, :0])
