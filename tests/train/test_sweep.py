"""Several runs as one program: each is what it would be by itself, whatever others become."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from emojax.config.swept import differing, structure
from emojax.data.pipeline import StackedBatches
from emojax.errors import ConfigError, NonFiniteError
from emojax.models.registry import build
from emojax.train.checkpoint import Checkpoints
from emojax.train.lanes import Lanes, lane
from emojax.train.loop import train
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.run import create_run, open_run
from emojax.train.step import make_initial_state, make_train_step
from emojax.train.sweep import sweep
from tests.train.runs import bits, complete, config, log_lines, outcome, start, train_state
from tests.train.sweeping import INTERRUPTED

QUIET = Console(file=io.StringIO())
COMMON = {
    "train.auxiliary_weight": 0.1, "train.distillation_weight": 0.1, "train.label_smoothing": 0.1,
    "model.input_dropout": 0.1, "model.feature_mix": 0.1, "model.attention": "temporal",
    "model.lambda_init": 0.5, "model.encoder_layers": 1, "model.diffusion_steps": 0,
}  # fmt: skip
DIFFERENT = {
    "train.learning_rate": 0.003, "train.final_learning_rate": 1e-3, "train.warmup": 0.2,
    "train.weight_decay": 0.2, "train.clip_norm": 0.1, "train.label_smoothing": 0.2,
    "train.auxiliary_weight": 0.5, "train.distillation_weight": 0.3, "train.ema_decay": 0.5,
    "train.distillation_temperature": 2.0, "model.dropout": 0.4, "model.input_dropout": 0.3,
    "model.modality_dropout": 0.3, "model.feature_mix": 0.5, "model.lambda_init": 0.8,
}  # fmt: skip
STEPS = 20


def configs(corpus, *changes):
    return [config(corpus, {"train.seed": n} | each) for n, each in enumerate(changes)]


def test_a_lane_is_the_run_by_itself(corpus, tmp_path):
    """The same initial parameters to the bit; after 20 steps the same but for rounding."""
    chosen = configs(corpus, *({"train.epochs": 4} | COMMON | each for each in ({}, DIFFERENT)))
    found = {f"{s}.{name}" for s, names in differing(chosen).items() for name in names}
    assert found == set(DIFFERENT) - {f"train.{n}" for n in ("learning_rate", "final_learning_rate",
                                                             "warmup")}  # fmt: skip
    run = create_run(tmp_path / "run", chosen[0])
    training = run.batches("train", training=True)
    epochs = [len(training.plan(epoch)) for epoch in range(4)]
    assert sum(epochs) >= STEPS
    first = next(training.one_epoch()).batch
    lanes = Lanes(chosen, run.model, epochs, None, devices=jax.devices()[:1], at_once=2)
    state = lanes.initial(first, run.collection())
    alone = []
    for n, each in enumerate(chosen):
        schedule = build_schedule(each.train, epochs)
        optimiser = build_optimiser(each.train, schedule)
        model = build(each.model, run.corpus.signature)
        fresh = make_initial_state(model, optimiser, each.train)
        alone.append(fresh(jax.random.key(n), first, run.collection()))
        assert bits(lane(state, n)) == bits(alone[n])
        step = make_train_step(model, optimiser, each.train, schedule, None)
        batches = create_run(tmp_path / f"alone_{n}", each).batches("train", training=True)
        for packed in itertools.islice(iter(batches), STEPS):
            alone[n], metrics = step(alone[n], packed.batch)
        alone[n] = alone[n], metrics

    going = lanes.put(jnp.ones(2, bool))
    orders = [training.reseeded(each.train.seed) for each in chosen]
    for stacked in itertools.islice(iter(StackedBatches(orders)), STEPS):
        state, metrics = lanes.step(state, lanes.put(stacked.batch), going)
    for n, (expected, values) in enumerate(alone):
        ours = lane(state, n)
        for name in ("params", "average"):
            pairs = zip(*map(jax.tree.leaves, (getattr(ours, name), getattr(expected, name))),
                        strict=True)  # fmt: skip
            assert max(float(abs(a - b).max()) for a, b in pairs) < 1e-5, (n, name)
        assert float(metrics["loss"][n]) == pytest.approx(float(values["loss"]), rel=1e-5)
        assert float(metrics["learning_rate"][n]) == pytest.approx(float(values["learning_rate"]))


def test_what_makes_two_programs(corpus):
    one, other, *more = configs(
        corpus, {}, DIFFERENT | {"model.lambda_init": "null", "model.input_dropout": 0,
                                 "model.feature_mix": 0, "train.label_smoothing": 0,
                                 "train.auxiliary_weight": 0, "train.distillation_weight": 0},
        {"model.width": 32}, {"model.dropout": 0}, {"train.clip_norm": "null"},
        {"train.epochs": 4}, {"train.auxiliary_weight": 0.1},
    )  # fmt: skip
    assert structure(one) == structure(other)
    for each in more:
        assert structure(each) != structure(one)
    padded = configs(corpus, {"data.layout": "padded"}, {"data.layout": "padded"})
    assert structure(padded[0]) != structure(padded[1])


@pytest.fixture
def compiles(monkeypatch):
    """Every set of lanes that is made, to look at afterwards."""
    made = []
    original = Lanes.__init__

    def keep(self, *arguments, **options):
        original(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Lanes, "__init__", keep)
    return made


def swept(folder, chosen, **options):
    runs = [create_run(folder / f"lane_{n}", each) for n, each in enumerate(chosen)]
    return runs, sweep(runs, folder / "sweep", QUIET, quiet=True, **options)


def test_a_sweep_leaves_what_its_runs_would_leave(corpus, tmp_path, compiles):
    """Files, records and scores; one compilation for each shape, whatever the number of lanes."""
    chosen = configs(corpus, {}, {"train.learning_rate": 0.003})
    changes = {"data.buckets": "[16, 32]"}
    chosen = [dataclasses.replace(each, data=config(corpus, changes).data) for each in chosen]
    runs, progress = swept(tmp_path / "ours", chosen)
    assert compiles.pop().compiles() == 2
    for n, each in enumerate(chosen):
        alone = create_run(tmp_path / f"alone_{n}", each)
        expected = train(alone, QUIET, quiet=True)
        assert complete(runs[n].last)[-1:] == complete(alone.last)[-1:]
        assert complete(runs[n].best) == complete(alone.best)
        assert progress[n].iterator == expected.iterator
        for ours, theirs in zip(progress[n].history, expected.history, strict=True):
            assert ours["validation"] == pytest.approx(theirs["validation"], abs=1e-4)
        ours, theirs = (
            [json.loads(line) for line in log_lines(run.folder)] for run in (runs[n], alone)
        )
        assert [line.keys() for line in ours] == [line.keys() for line in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.get("loss", 0) == pytest.approx(other.get("loss", 0), rel=1e-4)
        # A lane's run is a run: it opens, and there is nothing left to train.
        before = bits(restored(runs[n]))
        assert train(open_run(runs[n].folder), QUIET, quiet=True).history == progress[n].history
        assert bits(restored(runs[n])) == before


def restored(run):
    series = Checkpoints(run.last, keep=None)
    _, state, _ = series.restore(train_state(run))
    series.close()
    return state


def test_a_run_that_diverges_or_stops_early_leaves_the_others_alone(corpus, tmp_path):
    """Bit by bit, in the same program."""
    common = {"train.patience": 1, "train.clip_norm": 1.0, "train.epochs": 4}
    still = {"train.learning_rate": 1e-12, "train.final_learning_rate": 0.0}
    usual = [{}, {"train.learning_rate": 0.003}, {}]
    # A rate beyond all numbers, and one at which nothing gets better.
    for name, third in (("lost", {"train.learning_rate": 1e38}), ("still", still)):
        chosen = configs(corpus, *(common | each for each in [*usual[:2], third]))
        folder = tmp_path / name
        if name == "lost":
            with pytest.raises(NonFiniteError, match=r"lane_2: step \d+ .*lower train.learning"):
                swept(folder, chosen)
            assert not (folder / "lane_2" / "checkpoints" / "last").exists()
            assert "not_finite" in log_lines(folder / "lane_2")[-1]
        else:
            _, progress = swept(folder, chosen)
            assert len(progress[2].history) == 2
    for n in range(2):
        one, other = (open_run(tmp_path / name / f"lane_{n}") for name in ("lost", "still"))
        assert bits(restored(one)) == bits(restored(other))


def test_a_sweep_says_what_it_cannot_do(corpus, tmp_path):
    one, two, wide = configs(corpus, {}, {}, {"model.width": 32})
    runs = [create_run(tmp_path / f"{n}", each) for n, each in enumerate((one, two, wide))]
    with pytest.raises(ConfigError, match="not one program"):
        sweep(runs, tmp_path / "sweep", QUIET)
    assert not (tmp_path / "sweep").exists()
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text('{"lanes": ["another"]}')
    with pytest.raises(ConfigError, match="a sweep of other runs"):
        sweep(runs[:2], tmp_path / "sweep", QUIET)


def test_a_sweep_on_two_devices_goes_on_where_it_was_stopped(corpus, tmp_path):
    """Three runs on two devices: one lane is nobody's. Killed, told to stop, and resumed."""
    undisturbed, ours = tmp_path / "undisturbed", tmp_path / "ours"
    done = start(undisturbed, corpus, module="tests.train.sweeping")
    saved = ours / "sweep" / "checkpoints" / "last"
    for sign in (signal.SIGKILL, signal.SIGTERM):
        before = complete(saved)
        process = start(ours, corpus, module="tests.train.sweeping")
        while complete(saved) == before:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(sign)
        process.communicate(timeout=300)
        assert process.returncode == (INTERRUPTED if sign == signal.SIGTERM else -sign)
        assert not (ours / "lane_0" / "checkpoints").exists()
    for process in (start(ours, corpus, module="tests.train.sweeping"), done):
        assert process.communicate(timeout=300)[1] == ""
        assert process.returncode == 0
    for n in range(3):
        one, other = (outcome(folder / f"lane_{n}") for folder in (undisturbed, ours))
        assert one == other


def test_shapes_of_lanes_are_the_same_at_every_step(corpus, tmp_path):
    run = create_run(tmp_path / "run", config(corpus, {"data.buckets": "[16, 32]"}))
    training = run.batches("train", training=True)
    orders = StackedBatches([training.reseeded(seed) for seed in (0, 1, 2**32 - 1)])
    seen = set()
    iterator = iter(orders)
    for stacked in itertools.islice(iterator, 12):
        assert stacked.batch.segment.shape[0] == 3
        for n, packed in enumerate(stacked.lanes):
            np.testing.assert_array_equal(stacked.batch.segment[n], packed.batch.segment)
            seen.add((n, packed.rows))
    assert len(seen) > 24  # orders differ, but for what is alone in its bucket
    state = iterator.get_state()
    expected = next(iterator)
    again = iter(orders)
    again.set_state(state)
    assert bits(next(again).batch) == bits(expected.batch)
