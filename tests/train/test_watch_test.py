"""`train.watch_test`: the test split is scored after each epoch and selects nothing; all say so."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from emojax.config import digest
from emojax.train.checkpoint import Checkpoints
from emojax.train.evaluation import evaluate_run
from emojax.train.loop import train
from emojax.train.reads import reads
from emojax.train.run import create_run
from emojax.train.sweep import sweep
from experiments.outcome import result_of
from experiments.selection import best_epoch
from tests.train.runs import bits, config, train_state

EPOCHS = 3
WATCHED = {"train.watch_test": "true", "train.epochs": EPOCHS}


@pytest.fixture(scope="module")
def pair(corpus, tmp_path_factory):
    """The same run, watched and not, after training."""
    place, runs = tmp_path_factory.mktemp("watch"), {}
    for name, changes in (("watched", WATCHED), ("blind", {"train.epochs": EPOCHS})):
        runs[name] = create_run(place / name, config(corpus, changes))
        train(runs[name], Console(file=io.StringIO()), quiet=True)
    return runs["watched"], runs["blind"]


def notes(run) -> dict:
    series = Checkpoints(run.last, keep=None)
    step, state, found = series.restore(train_state(run))
    series.close()
    return {"step": step, "state": bits(state), **found}


def test_watching_changes_nothing_but_what_is_known(pair):
    watched, blind = map(notes, pair)
    assert watched["state"] == blind["state"]
    assert watched["best"]["epoch"] == blind["best"]["epoch"]
    for ours, theirs in zip(watched["history"], blind["history"], strict=True):
        assert ours["validation"] == theirs["validation"]
        assert set(ours) == {*theirs, "test"}
        assert set(ours["test"]) == set(ours["validation"])
    assert not reads(pair[1].folder)


def test_each_look_is_counted_and_the_report_says_so(pair):
    watched, _ = pair
    assert len(reads(watched.folder)) == EPOCHS
    assert {each["config_hash"] for each in reads(watched.folder)} == {digest(watched.config)}
    found = evaluate_run(watched.folder)
    report = json.loads(found.paths["json"].read_text())
    assert report["provenance"]["test_reads"] == EPOCHS + 1
    said = found.paths["markdown"].read_text()
    assert "scored after every epoch of training too" in said
    assert f"{EPOCHS + 1} readings in all" in said
    assert "after the model was selected on validation" not in said


def test_scores_of_the_chosen_epoch_are_those_of_its_evaluation(pair):
    watched, _ = pair
    found = result_of(watched.folder, "redifu")
    chosen = found.history[found.audit["selection"]["epoch"] - 1]
    assert len(found.history) == EPOCHS
    for metric, value in chosen["test"].items():
        assert found.scores["test"][metric] == pytest.approx(value, abs=1e-6)
    assert best_epoch(found)["test"]["weighted_f1"] >= chosen["test"]["weighted_f1"]


def test_lanes_are_watched_as_runs_by_themselves_are(corpus, pair, tmp_path):
    runs = [
        create_run(tmp_path / str(seed), config(corpus, WATCHED | {"train.seed": seed}))
        for seed in (pair[0].config.train.seed, 7)
    ]
    sweep(runs, tmp_path / "sweep", Console(file=io.StringIO()), quiet=True)
    alone, (first, second) = notes(pair[0]), map(notes, runs)
    for ours, theirs in zip(first["history"], alone["history"], strict=True):
        assert ours["test"]["nll"] == pytest.approx(theirs["test"]["nll"], rel=1e-3)
    assert first["history"][0]["test"] != second["history"][0]["test"]
    assert [len(reads(run.folder)) for run in runs] == [EPOCHS] * 2
