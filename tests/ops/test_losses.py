"""Cross entropy against scikit-learn's log loss and, where it is installed, PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from emojax.ops.losses import cross_entropy
from emojax.types import UNLABELLED

B, L, C = 3, 6, 4
DRAW = np.random.default_rng(0)
LOGITS = (3 * DRAW.normal(size=(B, L, C))).astype(np.float32)
LABEL = DRAW.integers(-1, C, size=(B, L)).astype(np.int32)
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0], np.float32)
compiled = jax.jit(jax.value_and_grad(cross_entropy), static_argnums=3)


def test_is_the_log_loss_of_the_labelled():
    there = LABEL != UNLABELLED
    assert not there.all()
    probability = scipy.special.softmax(LOGITS[there].astype(np.float64), axis=-1)
    for weight in (None, WEIGHT):
        wanted = sklearn.metrics.log_loss(
            LABEL[there], probability, labels=range(C),
            sample_weight=None if weight is None else weight[LABEL[there]],
        )  # fmt: skip
        loss, gradient = compiled(LOGITS, LABEL, weight, 0.0)
        assert loss == pytest.approx(wanted, abs=1e-6)
        assert (np.asarray(gradient)[~there] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_value_and_gradient_are_those_of_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    logits = torch.tensor(LOGITS.astype(np.float64), requires_grad=True)
    # PyTorch smooths with other class weights than the label's, so weights are left out there.
    weight = None if smoothing else WEIGHT
    theirs = torch.nn.functional.cross_entropy(
        logits.reshape(-1, C), torch.tensor(LABEL.ravel(), dtype=torch.long),
        weight=None if weight is None else torch.tensor(weight, dtype=torch.float64),
        ignore_index=UNLABELLED, label_smoothing=smoothing,
    )  # fmt: skip
    theirs.backward()
    loss, gradient = compiled(LOGITS, LABEL, weight, smoothing)
    assert loss == pytest.approx(theirs.item(), abs=1e-6)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_nothing_labelled_costs_nothing(weight):
    loss, gradient = compiled(LOGITS, np.full_like(LABEL, UNLABELLED), weight, 0.1)
    assert loss == 0
    assert (np.asarray(gradient) == 0).all()


def test_half_precision_logits_are_summed_in_single():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    loss = jax.jit(cross_entropy)(half, LABEL)
    exact, _ = compiled(half.astype(jnp.float32), LABEL, None, 0.0)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(float(exact), abs=1e-6)
