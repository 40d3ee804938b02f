"""Fusion that starts from a shared space, by itself and in lanes, and a space's own report."""

from __future__ import annotations

import io
import json
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from rich.console import Console

from emojax.config import from_dict, override
from emojax.errors import CheckpointError, ConfigError
from emojax.train.evaluation import best_variables, evaluate_run
from emojax.train.loop import train
from emojax.train.run import create_run, open_run
from emojax.train.sweep import sweep
from tests.train.runs import TINY

QUIET = Console(file=io.StringIO())
COMMON = {name: value for name, value in TINY.items() if not name.startswith("model.")} | {
    "model.width": 16, "train.epochs": 1,
}  # fmt: skip
SPACE = {"model.name": "shared_space", "model.units": 8, "train.ema_decay": 0.0}
STILL = {
    "model.name": "late_fusion", "train.learning_rate": 1e-12, "train.final_learning_rate": 0.0,
    "train.weight_decay": 0.0,
}  # fmt: skip


def made(folder, corpus, changes):
    """A run, and none of the settings that only `redifu` has."""
    chosen = {"data.source": str(corpus)} | COMMON | changes
    return create_run(folder, from_dict(override({}, [f"{k}={v}" for k, v in chosen.items()])))


@pytest.fixture(scope="module")
def spaces(corpus, tmp_path_factory):
    """Two trained spaces, of different seeds."""
    place = tmp_path_factory.mktemp("spaces")
    for seed in range(2):
        contrast = "supervised" if seed else "symmetric"
        changes = {"train.seed": seed, "model.contrast": contrast}
        train(made(place / str(seed), corpus, SPACE | changes), QUIET, quiet=True)
    return place


def params(run):
    """Of the selected epoch, by path."""
    return flatten_dict(best_variables(run.folder, run.model, run.corpus.signature)[0]["params"])


def check_start(run, space, fresh):
    """Where names and shapes agree the run has the space's parameters, else its seed's own."""
    found, theirs, own = params(run), params(open_run(space)), params(fresh)
    shared = {"/".join(p) for p in found if p in theirs and theirs[p].shape == found[p].shape}
    inputs = {
        f"{m}_input/{kind}" for m in ("text", "audio", "visual") for kind in ("kernel", "bias")
    }
    assert inputs | {"text_hidden/layer_0/kernel", "audio_missing"} <= shared
    assert "decision/weight" not in shared
    for path, value in found.items():
        wanted = theirs[path] if "/".join(path) in shared else own[path]
        # The average of parameters that do not move is rounded at every step.
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6, err_msg="/".join(path))
    assert any(abs(found[p] - own[p]).max() > 1e-3 for p in found)


def test_starts_from_what_fits(spaces, corpus, tmp_path):
    fresh = made(tmp_path / "fresh", corpus, STILL)
    train(fresh, QUIET, quiet=True)
    given = STILL | {"train.initialise_from": spaces / "0"}
    run = made(tmp_path / "run", corpus, given)
    train(run, QUIET, quiet=True)
    check_start(run, spaces / "0", fresh)


def test_lanes_start_each_from_its_own(spaces, corpus, tmp_path):
    runs, fresh = [], []
    for seed in range(2):
        changes = STILL | {"train.seed": seed}
        fresh.append(made(tmp_path / f"fresh{seed}", corpus, changes))
        changes |= {"train.initialise_from": spaces / str(seed)}
        runs.append(made(tmp_path / f"run{seed}", corpus, changes))
    sweep(fresh, tmp_path / "sweep of fresh", QUIET, quiet=True)
    sweep(runs, tmp_path / "sweep", QUIET, quiet=True)
    for seed, run in enumerate(runs):
        check_start(run, spaces / str(seed), fresh[seed])


def test_going_on_needs_no_source(spaces, corpus, tmp_path):
    source = tmp_path / "space"
    shutil.copytree(spaces / "0", source)
    run = made(tmp_path / "run", corpus, STILL | {"train.initialise_from": source})
    train(run, QUIET, quiet=True)
    shutil.rmtree(source)
    before = params(run)
    train(open_run(tmp_path / "run"), QUIET, quiet=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, params(run)))


def test_what_does_not_fit_is_refused_before_there_is_a_run(spaces, corpus, tmp_path):
    for changes, error, words in (
        ({"model.width": 8}, ConfigError, "Give both the same model.width"),
        ({"train.initialise_from": tmp_path / "nowhere"}, CheckpointError, "no run here"),
    ):
        given = STILL | {"train.initialise_from": spaces / "0"} | changes
        with pytest.raises(error, match=words):
            made(tmp_path / "run", corpus, given)
        assert not (tmp_path / "run").exists()


def test_contrast_needs_the_whole_batch(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.accumulate must be 1 for shared_space"):
        made(tmp_path / "run", corpus, SPACE | {"train.accumulate": 2})


def test_the_report_says_who_finds_whom(spaces):
    evaluated = evaluate_run(spaces / "0")
    content = json.loads(evaluated.paths["json"].read_text())
    assert len(content["retrieval"]) == 6
    for pair in content["retrieval"]:
        assert 0 <= pair["recall"]["1"] <= pair["recall"]["5"] <= pair["recall"]["10"] <= 1
    assert "| text finds audio |" in evaluated.paths["markdown"].read_text()
    assert "text finds audio" in evaluated.paths["html"].read_text()
