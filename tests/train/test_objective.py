"""The training loss against sums in fp64, and class weights against scikit-learn's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.utils.class_weight import compute_class_weight

from emojax.config import TrainConfig
from emojax.models.output import Output
from emojax.train.objective import class_weights, objective

B, L, M, C = 2, 5, 3, 4
DRAW = np.random.default_rng(0)
LOGITS = DRAW.normal(size=(B, L, C)).astype(np.float32)
MODALITY_LOGITS = DRAW.normal(size=(B, L, M, C)).astype(np.float32)
LABEL = np.array([[0, 1, 2, -1, -1], [3, 3, -1, 0, 1]], np.int32)
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0], np.float32)


def nll(logits, weights, smoothing):
    total = norm = 0.0
    for row, label in zip(logits.reshape(-1, C).astype(np.float64), LABEL.ravel(), strict=True):
        if label >= 0:
            target = (1 - smoothing) * np.eye(C)[label] + smoothing / C
            weight = 1.0 if weights is None else float(weights[label])
            total -= weight * target @ scipy.special.log_softmax(row)
            norm += weight
    return total / norm


def divergence(temperature, weights):
    """Sum over modalities of the mean T^2 KL(decision | modality)."""
    there = LABEL >= 0
    of_all = scipy.special.softmax(LOGITS[there].astype(np.float64) / temperature, axis=-1)
    weight = np.ones(there.sum()) if weights is None else np.float64(weights)[LABEL[there]]
    return sum(
        temperature**2
        * np.average(
            scipy.stats.entropy(
                of_all,
                scipy.special.softmax(
                    MODALITY_LOGITS[there][:, m].astype(np.float64) / temperature, axis=-1
                ),
                axis=-1,
            ),
            weights=weight,
        )
        for m in range(M)
    )


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "class weights"])
@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(auxiliary_weight=0.1, auxiliary_power=2),
        TrainConfig(auxiliary_weight=0.3, auxiliary_power=1, label_smoothing=0.2),
        TrainConfig(auxiliary_weight=0.0),
        TrainConfig(auxiliary_weight=1.0, distillation_weight=1.0),
        TrainConfig(distillation_weight=0.4, distillation_temperature=2.5),
    ],
    ids=["published", "smoothed", "without auxiliary losses", "SDT", "distilled alone"],
)
def test_objective_is_the_sum_it_says(config, weights):
    each = [nll(MODALITY_LOGITS[:, :, m], weights, config.label_smoothing) for m in range(M)]
    wanted = nll(LOGITS, weights, config.label_smoothing)
    wanted += config.auxiliary_weight * sum(x**config.auxiliary_power for x in each)
    wanted += config.distillation_weight * divergence(config.distillation_temperature, weights)
    weights = None if weights is None else jnp.asarray(weights)
    value = jax.jit(lambda o: objective(o, jnp.asarray(LABEL), config, weights))(
        Output(logits=jnp.asarray(LOGITS), modality_logits=jnp.asarray(MODALITY_LOGITS))
    )
    assert value == pytest.approx(wanted, abs=2e-6)


def test_gradients_pass_through_both_factors_of_the_square():
    config = TrainConfig(auxiliary_weight=0.1, auxiliary_power=2)

    @jax.jit
    def gradient(modality_logits):
        return jax.grad(
            lambda x: objective(Output(jnp.asarray(LOGITS), x), jnp.asarray(LABEL), config, None)
        )(modality_logits)  # fmt: skip

    ours = np.asarray(gradient(MODALITY_LOGITS))
    labelled = LABEL >= 0
    target = np.eye(C)[np.maximum(LABEL, 0)]
    for m in range(M):
        x = MODALITY_LOGITS[:, :, m].astype(np.float64)
        by_mean = (scipy.special.softmax(x, -1) - target) * labelled[..., None] / labelled.sum()
        wanted = config.auxiliary_weight * 2 * nll(MODALITY_LOGITS[:, :, m], None, 0.0) * by_mean
        np.testing.assert_allclose(ours[:, :, m], wanted, rtol=0, atol=1e-6)


def test_balanced_class_weights_are_those_of_scikit_learn():
    counts = np.array([5, 1, 10, 4])
    labels = np.repeat(np.arange(4), counts)
    wanted = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    ours = class_weights(TrainConfig(class_weights="balanced"), counts)
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)
    assert ours.dtype == np.float32
    assert np.average(ours, weights=counts) == pytest.approx(1)
    assert class_weights(TrainConfig(), counts) is None


def test_a_class_that_training_never_shows_keeps_weight_1():
    ours = class_weights(TrainConfig(class_weights="balanced"), np.array([6, 0, 2]))
    np.testing.assert_allclose(ours, [8 / 12, 1, 2], rtol=1e-6)
    none = class_weights(TrainConfig(class_weights="balanced"), np.zeros(3, int))
    np.testing.assert_array_equal(none, 1)


def test_the_decision_of_all_learns_nothing_from_the_modalities():
    config = TrainConfig(distillation_weight=1.0)

    def distilled(logits):
        output = Output(logits=logits, modality_logits=jnp.asarray(MODALITY_LOGITS))
        return objective(output, jnp.asarray(LABEL), config, None)

    def alone(logits):
        return objective(
            Output(logits, logits[:, :, None]), jnp.asarray(LABEL), TrainConfig(), None
        )

    ours, theirs = (jax.grad(f)(jnp.asarray(LOGITS)) for f in (distilled, alone))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-7)
