"""Optimisers and schedules against PyTorch's and against their formulas."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emojax.config import TrainConfig
from emojax.train.optimiser import build_optimiser, build_schedule

DRAW = np.random.default_rng(0)
PARAMS = {"kernel": DRAW.normal(size=(3, 2)), "bias": DRAW.normal(size=2)}
GRADIENTS = [{n: DRAW.normal(size=p.shape) for n, p in PARAMS.items()} for _ in range(6)]


def single(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def descend(optimiser):
    """Parameters after each of the given gradients."""
    params = single(PARAMS)
    state = optimiser.init(params)

    @jax.jit
    def step(params, state, gradients):
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for gradients in GRADIENTS:
        params, state = step(params, state, single(gradients))
        yield params


def in_pytorch(make):
    """The same descent by a PyTorch optimiser, in fp64."""
    torch = pytest.importorskip("torch")
    params = {n: torch.nn.Parameter(torch.tensor(p)) for n, p in PARAMS.items()}
    optimiser, schedule = make(torch, params)
    for gradients in GRADIENTS:
        for name, parameter in params.items():
            parameter.grad = torch.tensor(gradients[name])
        optimiser.step()
        if schedule is not None:
            schedule.step()
        yield {n: p.detach().numpy().copy() for n, p in params.items()}


def assert_same(ours, theirs):
    count = 0
    for one, two in zip(ours, theirs, strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), one, two)
        count += 1
    assert count == len(GRADIENTS)


def test_adam_l2_is_pytorchs_adam_with_weight_decay():
    config = TrainConfig(optimiser="adam_l2", weight_decay=0.3, clip_norm=None)

    def make(torch, params):
        return torch.optim.Adam(params.values(), lr=0.01, weight_decay=0.3), None

    assert_same(descend(build_optimiser(config, optax.constant_schedule(0.01))), in_pytorch(make))


def test_adamw_decays_matrices_alone():
    config = TrainConfig(weight_decay=0.3, clip_norm=None)

    def make(torch, params):
        groups = [
            {"params": [params["kernel"]], "weight_decay": 0.3},
            {"params": [params["bias"]], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=0.01), None

    assert_same(descend(build_optimiser(config, optax.constant_schedule(0.01))), in_pytorch(make))


def test_adam_l2_with_the_authors_schedule():
    # One step an epoch, so that their cosine, stepped after each epoch, is ours.
    epochs = len(GRADIENTS)
    config = TrainConfig(
        optimiser="adam_l2", weight_decay=5e-5, clip_norm=None, learning_rate=0.01,
        final_learning_rate=1e-6, warmup=0.0, schedule_per_epoch=True, epochs=epochs,
    )  # fmt: skip

    def make(torch, params):
        optimiser = torch.optim.Adam(params.values(), lr=0.01, weight_decay=5e-5)
        return optimiser, torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs, 1e-6)

    schedule = build_schedule(config, [1] * epochs)
    assert_same(descend(build_optimiser(config, schedule)), in_pytorch(make))


@pytest.mark.parametrize("norm", [0.5, 1e6])
def test_clipping_bounds_the_norm_of_all_gradients_together(norm):
    config = TrainConfig(optimiser="adam_l2", weight_decay=0.0, clip_norm=norm)
    clip = build_optimiser(config, optax.constant_schedule(1.0))
    # Adam's first step undoes any scale, so what it remembers is looked at instead.
    state = clip.init(single(PARAMS))
    _, state = clip.update(single(GRADIENTS[0]), state, single(PARAMS))
    (adam,) = (s for s in jax.tree.leaves(state, is_leaf=is_adam) if is_adam(s))
    length = np.sqrt(sum(np.square(g).sum() for g in GRADIENTS[0].values()))
    scale = min(1.0, norm / length)
    for name, gradient in GRADIENTS[0].items():
        np.testing.assert_allclose(adam.mu[name], 0.1 * scale * gradient, rtol=1e-5)


def is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


def rates(config, epoch_steps):
    schedule = jax.jit(build_schedule(config, epoch_steps))
    return np.array([schedule(step) for step in range(sum(epoch_steps))])


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    config = TrainConfig(learning_rate=0.2, final_learning_rate=0.01, warmup=0.25)
    ours = rates(config, [7, 6, 7])
    step = np.arange(1, 21)
    fall = 0.01 + (0.2 - 0.01) * (1 + np.cos(np.pi * (step - 5) / 15)) / 2
    wanted = np.where(step <= 5, 0.2 * step / 5, fall)
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
    assert ours.min() > 0
    assert ours.argmax() == 4
    assert ours[-1] == pytest.approx(0.01)


def test_the_authors_rate_is_one_an_epoch():
    config = TrainConfig(
        learning_rate=0.2, final_learning_rate=0.01, warmup=0.0, schedule_per_epoch=True
    )
    ours = rates(config, [3, 3, 3, 3])
    wanted = 0.01 + (0.2 - 0.01) * (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    np.testing.assert_allclose(ours, np.repeat(wanted, 3), rtol=1e-5)
    uneven = rates(config, [2, 5, 1])
    assert [len(set(part)) for part in np.split(uneven, [2, 7])] == [1, 1, 1]
    assert len(set(uneven.tolist())) == 3


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.6, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_run_of_a_few_steps_has_a_schedule_too(warmup, steps):
    ours = rates(TrainConfig(learning_rate=0.2, warmup=warmup), [steps])
    assert np.isfinite(ours).all()
    assert (ours[:-1] > 0).all()
    assert (ours <= 0.2 + 1e-6).all()
