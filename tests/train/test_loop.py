"""The loop: what it compiles, what it selects, when it stops, and what it leaves when it must."""

from __future__ import annotations

import io
import json
import pickle
import re

import jax
import numpy as np
import pytest
from rich.console import Console

from emojax.data.prepare import open_prepared, prepare
from emojax.errors import NonFiniteError
from emojax.evaluate.metrics import score
from emojax.evaluate.predict import make_predict, predict_split
from emojax.train import loop
from emojax.train.checkpoint import Checkpoints
from emojax.train.halting import NEVER
from emojax.train.loop import train
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.progress import better
from emojax.train.run import create_run, open_run
from emojax.train.step import make_initial_state, make_train_step
from tests.data.conftest import make_tuple
from tests.train.runs import bits, cli, complete, config, log_lines, train_state


def quietly(run):
    return train(run, Console(file=io.StringIO()), quiet=True)


def restored(run):
    """(step, state, notes) of the newest checkpoint."""
    series = Checkpoints(run.last, keep=None)
    found = series.restore(train_state(run))
    series.close()
    return found


@pytest.fixture
def step_functions(monkeypatch):
    """Every step function that a run makes, to look at afterwards."""
    made = []

    def keep(*arguments):
        made.append(make_train_step(*arguments))
        return made[-1]

    monkeypatch.setattr(loop, "make_train_step", keep)
    return made


def test_one_compile_a_shape_over_epochs_and_sittings(corpus, tmp_path, step_functions):
    chosen = config(corpus, {"data.buckets": "[16, 32]", "train.epochs": 3})
    run = create_run(tmp_path / "run", chosen)
    batches = run.batches("train", training=True)
    shapes = {(len(p.rows), p.length, p.capacity) for e in range(3) for p in batches.plan(e)}
    assert len(shapes) == 2
    quietly(run)
    assert step_functions.pop()._cache_size() == 2

    # A state that comes from a file must not look like another type of argument.
    before = complete(run.last)
    (run.last / str(before[-1])).rename(tmp_path / "newest")
    quietly(open_run(run.folder))
    assert step_functions.pop()._cache_size() == 2
    assert complete(run.last) == before


def test_the_best_epoch_is_kept_and_equals_keep_the_first(corpus, tmp_path):
    """At a rate of almost nothing every epoch scores the same."""
    changes = {"train.learning_rate": 1e-12, "train.final_learning_rate": 0.0}
    run = create_run(tmp_path / "run", config(corpus, changes))
    progress = quietly(run)
    scores = [record["validation"]["weighted_f1"] for record in progress.history]
    assert scores == [scores[0]] * 3
    assert progress.best["epoch"] == 0
    assert complete(run.best) == [5]


def test_patience_stops_early_and_for_good(corpus, tmp_path):
    changes = {"train.learning_rate": 1e-12, "train.patience": 1, "train.epochs": 5}
    run = create_run(tmp_path / "run", config(corpus, changes))
    progress = quietly(run)
    assert [record["epoch"] for record in progress.history] == [0, 1]
    before = (complete(run.last), log_lines(run.folder))
    again = quietly(open_run(run.folder))
    assert again.history == progress.history
    assert (complete(run.last), log_lines(run.folder)) == before


def test_nll_is_minimised(corpus, tmp_path):
    run = create_run(tmp_path / "run", config(corpus, {"train.select": "nll"}))
    progress = quietly(run)
    values = [record["validation"]["nll"] for record in progress.history]
    assert progress.best["epoch"] == int(np.argmin(values)) != int(np.argmax(values))
    assert complete(run.best) == [progress.best["step"]]


@pytest.mark.parametrize(
    ("select", "value", "than", "expected"),
    [
        ("accuracy", 0.6, 0.5, True), ("accuracy", 0.5, 0.5, False), ("macro_f1", 0.4, 0.5, False),
        ("nll", 0.6, 0.5, False), ("nll", 0.5, 0.5, False), ("nll", 0.4, 0.5, True),
    ],
)  # fmt: skip
def test_better(corpus, select, value, than, expected):
    assert better(config(corpus, {"train.select": select}).train, value, than) is expected


def test_the_average_is_what_is_evaluated_and_kept(undisturbed):
    run = open_run(undisturbed("averaged"))
    step, state, notes = restored(run)
    assert notes["best"]["step"] == step
    assert bits(state.average) != bits(state.params)

    series = Checkpoints(run.best, keep=None)
    _, variables, best_notes = series.restore(state.variables())
    series.close()
    assert bits(variables["params"]) == bits(state.average)

    found = predict_split(
        make_predict(run.model, explain=False), variables, run.batches("validation")
    )
    scores = score(found, len(run.corpus.signature.labels))
    record = best_notes["record"]["validation"]
    assert record["accuracy"] == scores.accuracy
    assert record["weighted_f1"] == scores.weighted_f1
    np.testing.assert_allclose(record["nll"], scores.nll, rtol=1e-6)
    plain = predict_split(
        make_predict(run.model, explain=False),
        {"params": state.params, "statistics": state.statistics},
        run.batches("validation"),
    )
    assert abs(score(plain, len(run.corpus.signature.labels)).nll - scores.nll) > 1e-4


SHORT = {
    "data.standardise": "false", "data.buckets": "[8]", "data.batch_utterances": 32,
    "data.validation_fraction": 0.2, "train.checkpoint_every": 1, "train.epochs": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """(conversation or None) -> a corpus where a feature of it is as large as a float32 can be."""
    folder = tmp_path_factory.mktemp("poisoned")

    def make(name: str | None):
        keys = [
            f"Ses{s:02d}{g}_impro{n:02d}" for s in range(1, 6) for g in "FM" for n in (1, 2, 10)
        ]
        content = make_tuple(
            keys, length=9, speaker=lambda u: "MF"[u % 2], widths=(5, 4, 3), classes=6
        )
        content[7:] = [{k for k in keys if "Ses05" not in k}, [k for k in keys if "Ses05" in k]]
        if name is not None:
            content[3][name][1][:] = 3e38
        file = folder / f"{name}.pkl"
        file.write_bytes(pickle.dumps(content))
        return prepare(file, folder / "data", validation_fraction=0.2).path

    return make


def test_a_loss_that_is_not_finite(poisoned, tmp_path):
    clean = create_run(tmp_path / "clean", config(poisoned(None), SHORT))
    plan = clean.batches("train", training=True).plan(0)
    assert len(plan) > 3
    ids = clean.corpus.ids("train")
    names = [ids[index] for row in plan[2].rows for index in row]

    run = create_run(tmp_path / "run", config(poisoned(names[1]), SHORT))
    with pytest.raises(NonFiniteError) as caught:
        quietly(run)
    message = str(caught.value)
    assert message.startswith("step 2 (epoch 1): the loss (nan) or the gradient norm (")
    assert f"Conversations of the batch: {', '.join(names)}. " in message
    assert "The last good checkpoint is that of step 2. " in message
    assert json.loads(log_lines(run.folder)[-1]) == {"step": 2, "epoch": 0, "not_finite": names}

    assert complete(run.last) == [1, 2]
    step, state, _ = restored(run)
    assert (step, int(state.step), int(state.halted)) == (2, 2, NEVER)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))

    # It is a fact of the data, so resuming meets it again and changes nothing.
    good = bits(state)
    done = cli("train", "--out", run.folder, "--resume")
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    assert bits(restored(run)[1]) == good


def test_validation_that_is_not_finite(poisoned, tmp_path):
    name = open_prepared(poisoned(None)).ids("validation")[0]
    run = create_run(tmp_path / "run", config(poisoned(name), SHORT))
    with pytest.raises(NonFiniteError, match="validation probabilities are not finite") as caught:
        quietly(run)
    named = re.search("Conversations: (.*?)[.] ", str(caught.value))[1].split(", ")
    assert name in named
    assert complete(run.best) == []
    assert complete(run.last)


def test_a_learning_rate_that_blows_up(corpus, tmp_path):
    """The step that is named is the one that a loop written out here comes to."""
    chosen = config(corpus, {"train.learning_rate": 1e38, "train.warmup": 0.0})
    run = create_run(tmp_path / "run", chosen)
    with pytest.raises(NonFiniteError, match="There is no checkpoint yet") as caught:
        quietly(run)
    named = int(re.match(r"step (\d+) ", str(caught.value))[1])
    assert complete(run.last) == []

    training = run.batches("train", training=True)
    steps = [len(training.plan(epoch)) for epoch in range(3)]
    schedule = build_schedule(chosen.train, steps)
    optimiser = build_optimiser(chosen.train, schedule)
    function = make_train_step(run.model, optimiser, chosen.train, schedule, None)
    first = next(training.one_epoch()).batch
    initial_state = make_initial_state(run.model, optimiser, chosen.train)
    state = initial_state(jax.random.key(chosen.train.seed), first, run.collection())
    finite = []
    for packed in training.one_epoch():
        state, metrics = function(state, jax.device_put(packed.batch))
        finite.append(np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"]))
    assert finite.index(False) == named > 0
