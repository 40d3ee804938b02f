"""The search for settings: the same budget for every model, validation alone, nothing lost."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from emojax.config import from_dict, load
from emojax.data.prepare import prepare
from emojax.errors import ConfigError
from experiments import run, tune
from experiments.studies import main_table
from tests.tiny_run import ENVIRONMENT, WORLD

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None, reason="Optuna is not installed"
)


def search(out: Path, source: Path, trials: int) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "experiments.tune", "--out", str(out), "--trials", str(trials),
        "--models", "early_fusion", "--data", str(source), "--set", "train.epochs=1",
        "--set", "model.width=8", "--set", "data.buckets=[16]",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of two trials, then asked for three: (folder, trials before, trials after)."""
    place = tmp_path_factory.mktemp("tune")
    source = prepare(WORLD, place / "data").path
    found = []
    for trials in (2, 3):
        done = search(place / "out", source, trials)
        assert done.returncode == 0, done.stderr
        with (place / "out" / "trials.csv").open() as file:
            found.append(list(csv.DictReader(file)))
    return place / "out", *found


def test_a_search_begins_with_the_defaults_and_adds_what_it_is_asked_for(searched):
    _, before, after = searched
    assert [row["trial"] for row in before] == ["0", "1"]
    assert after[:2] == before
    assert [row["state"] for row in after] == ["complete"] * 3
    default = from_dict({"model": {"name": "early_fusion"}})
    assert float(after[0]["train.learning_rate"]) == default.train.learning_rate
    assert float(after[0]["model.dropout"]) == default.model.dropout
    for field, (low, high, _) in tune.space(default).items():
        drawn = [float(row[field]) for row in after]
        assert len(set(drawn)) == 3
        assert all(low <= value <= high for value in drawn)
    assert {row["model.graph_dropout"] for row in after} == {""}  # it has none


def test_settings_are_those_of_the_best_trial(searched):
    out, _, after = searched
    best = max(after, key=lambda row: float(row["validation"]))
    found = from_dict(load(out / "settings" / "early_fusion.toml"))
    assert found.model.name == "early_fusion"
    assert found.train.learning_rate == pytest.approx(float(best["train.learning_rate"]), rel=1e-3)
    assert found.train.epochs == from_dict({}).train.epochs  # what the search cost is not kept


def test_a_trials_worth_is_its_runs_validation_score_and_no_test_split_was_read(searched):
    out, _, after = searched
    scores = set()
    for folder in (out / "runs").iterdir():
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        scores |= {round(json.loads(lines[-1])["validation"]["weighted_f1"], 5)}
        assert not (folder / "test_reads.json").exists()
    assert scores == {float(row["validation"]) for row in after}


def test_a_study_takes_tuned_settings_and_variants_and_users_win(searched, tmp_path):
    out, *_ = searched
    folder = tmp_path / "settings"
    folder.mkdir()
    text = (out / "settings" / "early_fusion.toml").read_text()
    for name in main_table.VARIANTS:
        own = text.replace("early_fusion", name)
        if name == "redifu_authors":  # which hides no modalities
            own = own.replace("modality_dropout", "graph_dropout")
        (folder / f"{name}.toml").write_text(own)
    made = dict(run.configs(main_table, 1, {}, ["train.weight_decay=0.25"], folder))
    tuned = from_dict(load(out / "settings" / "early_fusion.toml"))
    assert {c.train.learning_rate for c in made.values()} == {tuned.train.learning_rate}
    assert {c.train.weight_decay for c in made.values()} == {0.25}
    assert made["redifu_authors"].model.width == 64  # as the study says
    assert made["redifu_authors"].model.dropout == tuned.model.dropout
    (folder / "mult.toml").unlink()
    with pytest.raises(ConfigError, match="mult: no settings of mult were searched for"):
        run.configs(main_table, 1, {}, [], folder)
