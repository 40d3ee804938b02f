"""One step of fine-tuning: what it changes, how fast, and that its program is compiled once."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from emojax.nn.encoders.adapters import ATTENTION, init_adapters, with_adapters
from emojax.train.finetune.examples import Slice
from emojax.train.finetune.loop import program_of
from emojax.train.finetune.optimiser import depth_of, divide, rates_of, schedule, together
from emojax.train.finetune.predict import log_probabilities, make_predict
from emojax.train.finetune.run import create_tuning
from emojax.train.finetune.step import initial_state, make_step

COUNT = iter(range(10**6))


@pytest.fixture
def begin(config, tmp_path):
    """Of further assignments: (tuning, program, state, frozen, a batch)."""

    def begin(*changes: str):
        tuning = create_tuning(tmp_path / str(next(COUNT)), config(*changes))
        program = program_of(tuning)
        state, frozen = initial_state(program, tuning.encoder.variables["params"], 0)
        examples = tuning.examples["train"]
        batch = examples.batch(Slice(24, np.arange(8)), 8)
        return tuning, program, state, frozen, jax.device_put(batch)

    return begin


def moved(tuning, program, state, frozen, batch, rates=None):
    """Largest change of each parameter of the whole classifier in one step."""
    text = tuning.config.text
    before = flatten_dict(jax.device_get(together(state.trained, frozen, text)))
    rates = jnp.ones(2 + program.sizes.layers) if rates is None else jnp.asarray(rates)
    state, metrics = make_step(program)(state, frozen, batch, rates)
    assert np.isfinite(metrics["loss"])
    after = flatten_dict(jax.device_get(together(state.trained, frozen, text)))
    return {path: float(abs(after[path] - before[path]).max()) for path in before}


def test_rates_differ_by_depth(begin):
    """Adam's first step is as long as its rate, wherever there is a gradient."""
    rates = [0.5, 0.001, 0.01, 0.1]
    found = moved(*begin("train.weight_decay=0"), rates)
    for path, change in found.items():
        expected = rates[0] if path[0] == "head" else rates[2 + depth_of(path[1:])]
        if path[-2:] != ("key", "bias"):  # which moves all scores alike: its gradient is rounding
            assert change == pytest.approx(expected, rel=0.01), path


@pytest.mark.parametrize("layers", [1, 2])
def test_what_is_frozen_stays(begin, layers: int):
    given = begin(f"text.freeze_layers={layers}")
    still = {-1, *range(layers)}
    trained = [path for path in flatten_dict(given[2].trained) if path[0] == "encoder"]
    assert {depth_of(path[1:]) for path in trained} == {-1, 0, 1} - still
    for path, change in moved(*given).items():
        assert (change == 0) == (path[0] == "encoder" and depth_of(path[1:]) in still), path


def test_adapters_alone_are_trained_and_start_from_nothing(begin):
    given = begin("text.lora_rank=2", "train.learning_rate=0.1")
    both = [
        np.asarray(make_predict(program)(state.trained, frozen, batch))
        for _, program, state, frozen, batch in (given, begin())
    ]
    np.testing.assert_array_equal(*both)
    assert set(given[2].trained) == {"adapters", "head"}
    for path, change in moved(*given).items():
        adapted = path[0] == "head" or (path[-1] == "kernel" and path[-2] in ATTENTION)
        assert (change > 0) == adapted, path


@pytest.mark.parametrize("rank", [1, 3])
def test_adapters_are_products_of_low_rank(rank: int):
    params = {"layer_0": {"query": {"kernel": jnp.ones((6, 4)), "bias": jnp.ones(4)},
                          "hidden": {"kernel": jnp.ones((6, 5))}}}  # fmt: skip
    adapters = init_adapters(jax.random.key(0), params, rank, ATTENTION)
    assert set(flatten_dict(adapters)) == {("layer_0", "query", "kernel", x) for x in "ab"}
    adapters = jax.tree.map(lambda x: x + 1.0, adapters)
    found = with_adapters(params, adapters, 0.5)
    low = adapters["layer_0"]["query"]["kernel"]
    expected = params["layer_0"]["query"]["kernel"] + 0.5 * low["a"] @ low["b"]
    np.testing.assert_allclose(found["layer_0"]["query"]["kernel"], expected, rtol=1e-6)
    assert np.linalg.matrix_rank(np.asarray(expected) - 1.0) <= rank
    assert found["layer_0"]["hidden"] == params["layer_0"]["hidden"]


def test_what_is_divided_comes_together(begin):
    _, program, state, frozen, _ = begin()
    params = {"encoder": state.trained["encoder"], "head": state.trained["head"]}
    for changes in ({}, {"freeze_layers": 1}, {"lora_rank": 2}, {"freeze_embeddings": True}):
        text = dataclasses.replace(program.text, **changes)
        again = together(*divide(params, text, jax.random.key(1)), text)
        jax.tree.map(np.testing.assert_array_equal, again, params)
    assert not frozen
    held = divide(params, dataclasses.replace(program.text, freeze_embeddings=True), None)[1]
    assert set(held) == {"words", "positions", "kinds", "norm"}


def test_the_rates_rise_and_fall(config):
    train = config("train.warmup=0.2", "train.layer_decay=0.5").train
    shares = schedule(train, 10)
    np.testing.assert_allclose(shares, [0.5, 1, *(np.arange(8, 0, -1) / 8)])
    rates = rates_of(train, 2, 10)
    assert rates.shape == (10, 4)
    np.testing.assert_allclose(rates[1], [0.02, 0.0025, 0.005, 0.01])
    np.testing.assert_allclose(rates[4], 6 / 8 * rates[1], rtol=1e-6)
    assert schedule(config().train, 1).tolist() == [1.0]


def test_one_compilation_serves_all_seeds_rates_and_lengths_of_training(begin):
    tuning, program, *rest = begin()
    step = make_step(program)
    before = step._cache_size()
    moved(tuning, program, *rest)
    for changes in ("train.seed=3", "train.epochs=7", "train.learning_rate=0.1",
                    "data.train_share=0.5", "text.turns=0", "train.layer_decay=0.5"):  # fmt: skip
        given = begin(changes)
        assert make_step(given[1]) is step
        moved(*given)
    assert step._cache_size() <= before + 1
    assert make_step(begin("text.dropout=0.3")[1]) is not step


def test_a_row_that_fills_the_batch_has_no_influence(begin):
    tuning, program, state, frozen, _ = begin("text.dropout=0")
    examples, step = tuning.examples["train"], make_step(program)
    rates = jnp.ones(4)
    three = jax.device_put(examples.batch(Slice(24, np.arange(3)), 8))
    dirty = dataclasses.replace(three, tokens=three.tokens.at[3:].set(7))
    copies = [jax.tree.map(jnp.copy, state) for _ in range(2)]
    found = [step(copy, frozen, b, rates) for copy, b in zip(copies, (three, dirty), strict=True)]
    jax.tree.map(np.testing.assert_array_equal, found[0][0].trained, found[1][0].trained)
    assert found[0][1]["loss"] == found[1][1]["loss"]


def test_steps_halt_at_a_loss_that_is_not_finite(begin):
    _, program, state, frozen, batch = begin()
    bad = jax.tree.map(jnp.copy, state)
    bad = dataclasses.replace(bad, trained=jax.tree.map(lambda x: x * jnp.nan, bad.trained))
    after, metrics = make_step(program)(bad, frozen, batch, jnp.ones(4))
    assert (int(after.step), int(after.halted), int(metrics["halted"])) == (0, 0, 0)


def test_an_average_follows_what_is_trained(begin):
    _, program, state, frozen, batch = begin("train.ema_decay=0.75")
    before = jax.device_get(state.trained)
    after, _ = make_step(program)(state, frozen, batch, jnp.ones(4))
    jax.tree.map(
        lambda average, old, new: np.testing.assert_allclose(
            average, 0.75 * old + 0.25 * new, rtol=1e-5, atol=1e-6
        ),
        after.evaluated(), before, jax.device_get(after.trained),
    )  # fmt: skip


def test_predictions_do_not_depend_on_their_batch(begin):
    tuning, program, state, frozen, _ = begin()
    examples, predict = tuning.examples["validation"], make_predict(program)
    found = [
        log_probabilities(predict, state.trained, frozen, examples, lengths, size)
        for lengths, size in (((16, 24), 2), ((24,), 1))
    ]
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.exp(found[0]).sum(-1), 1, rtol=1e-5)
    predictions = examples.predictions(np.exp(found[0]))
    assert [p.id for p in predictions] == [c.id for c in examples.conversations]
    np.testing.assert_array_equal(np.concatenate([p.probability for p in predictions]),
                                  np.exp(found[0]))  # fmt: skip


def test_every_utterance_is_taken_once_an_epoch(begin):
    tuning, *_ = begin()
    examples = tuning.examples["train"]
    plans = [examples.plan((16, 24), 8, (0, epoch)) for epoch in (0, 0, 1)]
    for plan in plans:
        rows = np.concatenate([part.rows for part in plan])
        assert sorted(rows) == list(range(len(examples.label)))
        for length, members in plan:
            assert len(members) <= 8
            longest = examples.bounds[members, 2].max()
            assert longest <= length
            assert length == 16 or examples.bounds[members, 2].min() > 16
    assert len({len(plan) for plan in plans}) == 1
    told = [[part.rows.tolist() for part in plan] for plan in plans]
    assert told[0] == told[1] != told[2]
