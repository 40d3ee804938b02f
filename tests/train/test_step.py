"""One step: pure, donated, compiled once per shape, and silent about nothing that is not finite."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from emojax.config import RedifuConfig, TrainConfig
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.train.halting import NEVER
from emojax.train.objective import objective
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.step import make_initial_state, make_train_step
from tests.batches import SIGNATURE, pack, random_conversation
from tests.train.runs import bits

MODEL = build(
    RedifuConfig(
        width=16, heads=2, graph_heads=2, encoder_layers=0, delta=False, graph_layers=1, window=2,
        diffusion_steps=1,
    ),
    SIGNATURE,
)  # fmt: skip
CONFIG = TrainConfig(ema_decay=0.9, learning_rate=0.01, weight_decay=0.1)


@dataclasses.dataclass
class Made:
    """A state and what advances it."""

    config: TrainConfig
    optimiser: optax.GradientTransformation
    schedule: optax.Schedule
    step: object

    def state(self):
        statistics = identity_statistics(SIGNATURE.widths)
        initial_state = make_initial_state(MODEL, self.optimiser, self.config)
        return initial_state(jax.random.key(self.config.seed), batch(0), statistics)


def made(config: TrainConfig) -> Made:
    schedule = build_schedule(config, [10])
    optimiser = build_optimiser(config, schedule)
    return Made(
        config, optimiser, schedule, make_train_step(MODEL, optimiser, config, schedule, None)
    )


@pytest.fixture(scope="module")
def averaged() -> Made:
    return made(CONFIG)


def batch(seed: int, length: int = 12, **changes):
    first, second, third = (random_conversation(10 * seed + i, n) for i, n in enumerate([5, 4, 9]))
    packed = pack([[first, second], [third]], length)
    return dataclasses.replace(packed, **changes)


def test_every_leaf_is_strong_and_stays_so(averaged):
    state = averaged.state()
    for _ in range(2):
        assert [leaf.weak_type for leaf in jax.tree.leaves(state)] == [False] * len(
            jax.tree.leaves(state)
        )
        kinds = jax.tree.map(lambda x: (x.shape, x.dtype), state)
        state, metrics = averaged.step(state, batch(0))
        assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == kinds
    assert {name: value.shape for name, value in metrics.items()} == dict.fromkeys(
        ("loss", "gradient_norm", "learning_rate", "halted"), ()
    )


def test_a_seed_gives_a_state_and_another_seed_another(averaged):
    again = bits(averaged.state())
    assert bits(averaged.state()) == again
    other = bits(made(dataclasses.replace(CONFIG, seed=1)).state())
    differ = {path for path in again if again[path] != other[path]}
    assert ".key" in differ
    assert any(path.startswith(".params") and path.endswith("['kernel']") for path in differ)


def test_the_average_starts_as_a_copy(averaged):
    """Not as the same memory, which could not be donated twice."""
    state = averaged.state()
    assert bits(state.average) == bits(state.params)
    averaged.step(state, batch(0))
    assert made(dataclasses.replace(CONFIG, ema_decay=0.0)).state().average is None


def test_one_compile_a_shape_and_the_old_state_is_reused():
    fresh = made(CONFIG)
    state = fresh.state()
    batches = [jax.device_put(batch(seed, length)) for seed in range(3) for length in (12, 16)]
    for each in batches:
        old = jax.tree.leaves(state)
        with warnings.catch_warnings(), jax.transfer_guard("disallow"):
            warnings.simplefilter("error")  # a buffer that could not be donated is a warning
            state, _ = fresh.step(state, each)
        assert all(leaf.is_deleted() for leaf in old)
    assert fresh.step._cache_size() == 2
    assert int(state.step) == 6


def test_the_step_is_the_recipe_written_out(averaged):
    """Gradient of the objective, optax's update, average: one after the other."""
    state, one = averaged.state(), batch(3)
    before = jax.tree.map(jnp.copy, state)
    state, metrics = averaged.step(state, one)

    key = jax.random.fold_in(jax.random.wrap_key_data(before.key), 0)

    def loss_of(params):
        variables = {"params": params, "statistics": before.statistics}
        output = MODEL.apply(variables, one, rngs={"dropout": key})
        return objective(output, one.label, CONFIG, None)

    loss, gradients = jax.jit(jax.value_and_grad(loss_of))(before.params)
    update = jax.jit(averaged.optimiser.update)
    updates, _ = update(gradients, before.opt_state, before.params)
    params = optax.apply_updates(before.params, updates)
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradients), rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"], averaged.schedule(0), rtol=1e-6)
    # Adam's first step is the sign of a gradient: where that is rounding, so is the step.
    clear = jax.tree.map(lambda g: np.abs(g) > 1e-5, gradients)
    leaves = map(jax.tree.leaves, (state.params, params, clear))
    for new, expected, where in zip(*leaves, strict=True):
        np.testing.assert_allclose(new[where], expected[where], rtol=1e-4, atol=1e-5)
    for average, old, new in zip(
        *map(jax.tree.leaves, (state.average, before.params, state.params)), strict=True
    ):
        np.testing.assert_allclose(average, 0.9 * old + 0.1 * new, rtol=1e-5, atol=1e-7)
    assert bits(state.statistics) == bits(before.statistics)
    assert state.variables()["params"] is state.average


def test_dropout_differs_from_step_to_step_and_repeats(averaged):
    """Same parameters and batch, another step: another loss; the same step: the same loss."""

    def loss(step: int) -> float:
        state = dataclasses.replace(averaged.state(), step=jnp.asarray(step, jnp.int32))
        return float(averaged.step(state, batch(0))[1]["loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


@pytest.mark.parametrize(
    "bad", [np.nan, np.inf, 3e38], ids=["NaN feature", "infinite feature", "overflow"]
)
def test_nothing_changes_from_a_bad_step_on(averaged, bad):
    """The host looks a few steps late: steps that follow must leave the last good state alone."""
    state = averaged.state()
    for seed in range(3):
        state, _ = averaged.step(state, batch(seed))
    good = bits(state)

    harmed = batch(3)
    harmed = dataclasses.replace(
        harmed, text=harmed.text.at[0, 2].set(bad), present=harmed.present.at[0, 2].set(True)
    )
    state, metrics = averaged.step(state, harmed)
    assert not (np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]))
    assert int(metrics["halted"]) == 3
    for seed in range(4, 7):
        state, metrics = averaged.step(state, batch(seed))
        assert int(metrics["halted"]) == 3
    found = bits(state)
    assert found.pop(".halted") == ("int32", np.int32(3).tobytes())
    assert good.pop(".halted") == ("int32", np.int32(NEVER).tobytes())
    assert found == good


def test_a_gradient_alone_can_be_bad():
    """A loss that is finite, and a gradient that overflows."""
    fresh = made(dataclasses.replace(CONFIG, auxiliary_weight=3e38, auxiliary_power=1))
    state = fresh.state()
    good = bits(state)
    state, metrics = fresh.step(state, batch(0))
    assert int(metrics["halted"]) == 0
    found = bits(state)
    del found[".halted"], good[".halted"]
    assert found == good
