"""Contrast between modalities against loops in fp64, and what it must not depend on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.ops.contrastive import contrast

B, L, M, E, C = 2, 4, 3, 5, 3
SCALE = 3.0
compiled = jax.jit(jax.value_and_grad(contrast), static_argnames="classes")


def unit(draw, *shape):
    x = draw.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def by_hand(z, present, label=None):
    """Every utterance, modality and other modality in turn."""
    z, present = z.reshape(-1, M, E).astype(np.float64), present.reshape(-1, M)
    label = None if label is None else label.ravel()
    losses = []
    for i in range(len(z)):
        for m in range(M):
            for n in set(range(M)) - {m}:
                there = np.flatnonzero(present[:, n])
                alike = there == i
                if label is not None and label[i] >= 0:
                    alike = label[there] == label[i]
                if present[i, m] and alike.any():
                    scores = SCALE * z[there, n] @ z[i, m]
                    losses.append(scipy.special.logsumexp(scores) - scores[alike].mean())
    return np.mean(losses) if losses else 0.0


@given(seed=st.integers(0, 10**6), missing=st.sampled_from([0.0, 0.3, 0.8, 1.0]))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("supervised", [False, True], ids=["symmetric", "supervised"])
def test_is_the_mean_over_all_who_ask(supervised, seed, missing):
    draw = np.random.default_rng(seed)
    z, present = unit(draw, B, L, M, E), draw.random((B, L, M)) >= missing
    label = draw.integers(-1, C, (B, L)).astype(np.int32) if supervised else None
    loss, gradient = compiled(z, present, SCALE, label, classes=C)
    assert loss == pytest.approx(by_hand(z, present, label), abs=2e-6)
    assert np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~present] == 0).all()


@pytest.mark.parametrize("supervised", [False, True], ids=["symmetric", "supervised"])
def test_gradient_is_that_of_the_definition(supervised):
    draw = np.random.default_rng(1)
    z, present = unit(draw, B, L, M, E), draw.random((B, L, M)) >= 0.2
    label = draw.integers(-1, C, (B, L)).astype(np.int32) if supervised else None
    _, gradient = compiled(z, present, SCALE, label, classes=C)
    step, towards = 1e-5, draw.normal(size=z.shape)
    ahead, behind = (
        by_hand(z.astype(np.float64) + s * towards, present, label) for s in (step, -step)
    )
    slope = (np.asarray(gradient, np.float64) * towards).sum()
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-4)


def test_is_the_symmetric_cross_entropy_of_pytorch():
    torch = pytest.importorskip("torch")
    draw = np.random.default_rng(2)
    z, present = unit(draw, B, L, M, E), np.ones((B, L, M), bool)
    present[..., 2] = False
    text, audio = (torch.tensor(z.reshape(-1, M, E)[:, m]) for m in (0, 1))
    scores, itself = SCALE * text @ audio.T, torch.arange(B * L)
    one, other = (torch.nn.functional.cross_entropy(s, itself) for s in (scores, scores.T))
    loss, _ = compiled(z, present, SCALE)
    assert loss == pytest.approx(((one + other) / 2).item(), abs=1e-6)


def test_finds_a_space():
    """Descent brings the modalities of an utterance together and keeps utterances apart."""
    draw = np.random.default_rng(3)
    z, present = jnp.asarray(unit(draw, 1, 8, M, E)), np.ones((1, 8, M), bool)
    for _ in range(200):
        _, gradient = compiled(z, present, 10.0)
        z = z - 0.3 * gradient
        z = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    alike = jnp.einsum("bime,bjne->mnij", z, z)
    for m, n in ((0, 1), (1, 2), (2, 0)):
        assert (alike[m, n].argmax(-1) == np.arange(8)).all()
