"""Studies: their results are kept once and for all, and tables say what is in them."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from emojax.config import digest, load
from emojax.config.corruption import parse_all
from emojax.data.prepare import prepare
from emojax.errors import ConfigError, DataError
from emojax.train.evaluation import evaluate_run
from experiments import run, tables
from experiments.curves import conditions
from experiments.store import METRICS, Result, Store, commit
from experiments.studies import ablation, modalities, protocol
from tests.tiny_run import ENVIRONMENT, WORLD

ROOT = Path(__file__).parent.parent
TINY = {
    "model.width": 16, "model.heads": 2, "model.graph_heads": 2, "model.graph_layers": 0,
    "model.encoder_layers": 0, "model.delta": "false", "model.diffusion_steps": 0,
    "model.chain": "false", "data.buckets": "[16]", "data.batch_utterances": 64,
    "train.epochs": 1,
}  # fmt: skip


def result(variant: str, seed: int, rate: float, draw, corpus: str = "c") -> Result:
    """A run that has each utterance right with that chance."""
    label = {f"d{i:02d}": np.random.default_rng(i).integers(-1, 3, 9).tolist() for i in range(30)}
    predicted = {
        d: [y if draw.random() < rate else (y + 1) % 3 for y in each] for d, each in label.items()
    }
    found = Result(
        variant, seed, f"{variant} {seed}", corpus, "", {}, 1.0, 10, label, predicted, {}
    )
    scores = dict.fromkeys(METRICS, 0.5) | {"accuracy": float(found.right.mean())}
    return dataclasses.replace(found, scores={"validation": scores, "test": scores})


def test_results_are_read_as_they_were_written(tmp_path):
    draw, path = np.random.default_rng(0), tmp_path / "out" / "results.jsonl"
    written = [result("a", seed, 0.7, draw) for seed in range(3)]
    for each in written:
        Store(path).append(each)
    found = Store(path).results
    assert [dataclasses.asdict(each) for each in found] == [dataclasses.asdict(r) for r in written]
    assert Store(path).find("a 1").seed == 1
    assert Store(path).find("b 1") is None
    assert Store(path).find("a 1", "b") is None


def test_of_each_variant_and_seed_the_last_result_counts(tmp_path):
    draw, store = np.random.default_rng(0), Store(tmp_path / "results.jsonl")
    for variant, seed in (("a", 0), ("b", 0), ("a", 1), ("a", 0)):
        store.append(result(variant, seed, 0.7, draw))
    first, other, second, again = store.results
    assert store.newest == [again, other, second]
    assert store.find("a 0") is again
    assert first not in store.newest


def test_a_line_cut_short_is_dropped_and_other_damage_is_told(tmp_path):
    draw, path = np.random.default_rng(0), tmp_path / "results.jsonl"
    for seed in range(2):
        Store(path).append(result("a", seed, 0.7, draw))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"variant": "a", "se')
    assert len(Store(path).results) == 2
    assert path.read_bytes() == whole
    path.write_bytes(b"{}\n" + whole)
    with pytest.raises(DataError, match=r"results.jsonl.*line 1 is no result"):
        Store(path)


def test_packed_results_are_as_good_as_others(tmp_path):
    draw, path = np.random.default_rng(0), tmp_path / "results.jsonl"
    Store(path).pack()
    assert not list(tmp_path.iterdir())
    written = [result("a", seed, 0.7, draw) for seed in range(3)]
    for each in written:
        Store(path).append(each)
        if each.seed != 1:
            Store(path).pack()
    assert [each.name for each in tmp_path.iterdir()] == ["results.jsonl.xz"]
    found = Store(path).results
    assert [dataclasses.asdict(each) for each in found] == [dataclasses.asdict(r) for r in written]
    packed = path.with_name("results.jsonl.xz")
    content = packed.read_bytes()
    for damage in (content[:-9], b"no archive", content[:40] + b"?" + content[41:]):
        packed.write_bytes(damage)
        with pytest.raises(DataError, match=r"results.jsonl.xz.*is damaged"):
            Store(path)


def test_a_table_compares_seed_by_seed_with_the_reference():
    draw = np.random.default_rng(1)
    results = [
        result(variant, seed, rate, draw)
        for variant, rate in (("good", 0.9), ("same", 0.6), ("reference", 0.6))
        for seed in range(5)
    ]
    rows = {row.variant: row for row in tables.compare(
        results, ["reference", "good", "same", "absent"], "reference"
    )}  # fmt: skip
    assert set(rows) == {"reference", "good", "same"}
    for name, row in rows.items():
        each = [r.scores["test"]["accuracy"] for r in results if r.variant == name]
        assert (row.seeds, row.mean("accuracy")) == (5, pytest.approx(np.mean(each)))
        assert row.deviation("accuracy") == pytest.approx(scipy.stats.tstd(each))
    good = rows["good"]
    gain = good.mean("accuracy") - rows["reference"].mean("accuracy")
    assert good.difference == pytest.approx(gain)
    assert good.low < good.difference < good.high
    assert good.low > 0
    assert good.p_bootstrap < 0.01
    assert good.p_mcnemar < 0.01
    assert np.isnan(rows["reference"].difference)

    sheet = tables.sheet(list(rows.values()), "A question")
    text = sheet.markdown()
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[2].startswith("| good |")
    assert all(line.count("|") == len(tables.HEADER) + 1 for line in lines)
    assert sheet.latex().count(r"\\") == 4


def test_equals_are_told_apart_no_more_often_than_was_agreed():
    draw = np.random.default_rng(2)
    found = []
    for _ in range(60):
        runs = [result(name, seed, 0.6, draw) for name in ("a", "b") for seed in range(3)]
        found.append(tables.compare(runs, ["a", "b"], "a")[1])
    # One in twenty, give or take four deviations.
    most = 60 * 0.05 + 4 * np.sqrt(60 * 0.05 * 0.95)
    assert 0 < sum(row.p_bootstrap < 0.05 for row in found) < most
    assert sum(row.p_mcnemar < 0.05 for row in found) < most
    assert sum(row.low > 0 or row.high < 0 for row in found) < most


def test_a_single_seed_has_no_deviation_and_other_corpora_no_place():
    draw = np.random.default_rng(1)
    one = result("a", 0, 0.9, draw)
    (row,) = tables.compare([one], ["a"], "reference")
    assert np.isnan(row.deviation("accuracy"))
    assert "±" not in tables.cells([row])[0][3]
    with pytest.raises(DataError, match="different test splits"):
        tables.compare([one, result("b", 0, 0.9, draw, corpus="d")], ["a", "b"], "a")


STUDIES = {name: importlib.import_module(f"experiments.studies.{name}") for name in run.names()}


@pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
def test_every_variant_of_a_study_can_be_built(study):
    made = run.configs(study, 2, {}, ["train.epochs=3"])
    assert len({digest(config) for _, config in made}) == len(made) == 2 * len(study.VARIANTS)
    assert study.REFERENCE in study.VARIANTS
    assert {config.train.epochs for _, config in made} == {3}
    assert {config.train.seed for _, config in made} == {0, 1}
    some = list(study.VARIANTS)[1:3]
    assert [variant for variant, _ in run.configs(study, 1, {}, [], only=some)] == some
    alike = [variant for variant, _ in run.configs(study, 1, {}, [], only=["*"])]
    assert alike == list(study.VARIANTS)
    with pytest.raises(ConfigError, match=r"there is no variant 'nobody\*'"):
        run.configs(study, 1, {}, [], only=[some[0], "nobody*"])
    with pytest.raises(ConfigError, match=r".+: train\.epochs must be positive"):
        run.configs(study, 1, {}, ["train.epochs=0"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_asks_costs_and_expects(name):
    said = STUDIES[name].__doc__
    assert said.splitlines()[0].endswith("?")
    assert f"python -m experiments.run {name} --out" in said
    assert re.search(r"\bCost\b.*\bExpected: ", said, re.DOTALL)


@pytest.mark.parametrize("name", [name for name in STUDIES if hasattr(STUDIES[name], "PANELS")])
def test_panels_are_of_the_study(name):
    study = STUDIES[name]
    used = set()
    for panel in study.PANELS:
        assert panel.reference in panel.lines
        for line in panel.lines.values():
            assert sorted(line) == panel.places
            used |= {variant for variant, _ in line.values()}
    assert used == set(study.VARIANTS)
    assert len({panel.title for panel in study.PANELS}) == len(study.PANELS)
    for condition in conditions(study.PANELS):
        # Written in one way only, or the same condition would be looked at twice.
        assert " ".join(map(str, parse_all(condition.split()))) == condition


@pytest.mark.parametrize("study", [ablation, protocol])
def test_studies_of_mosi_can_be_built(study):
    made = run.configs(study, 1, load(ROOT / "experiments" / "mosi_whole.toml"), [])
    assert {config.data.text_encoder for _, config in made} == {"minilm"}


def test_the_commit_is_that_of_the_code():
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert head.returncode or commit().rstrip("+") == head.stdout.strip()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A study killed once its second result was there, and run again: (folder, first lines)."""
    place = tmp_path_factory.mktemp("study")
    source = prepare(WORLD, place / "data").path
    command = [
        sys.executable, "-m", "experiments.run", "modalities", "--out", str(place / "out"),
        "--seeds", "1", "--data", str(source), *(f"--set={k}={v}" for k, v in TINY.items()),
    ]  # fmt: skip
    results = place / "out" / "results.jsonl"
    process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    while not results.exists() or results.read_text().count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    before = results.read_text()
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return place / "out", before[: before.rindex("\n") + 1], done.stdout


def test_a_killed_study_goes_on_and_repeats_nothing(killed):
    out, before, said = killed
    text = (out / "results.jsonl").read_text()
    assert text.startswith(before)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["variant"] for row in rows] == list(modalities.VARIANTS)
    assert len(list((out / "runs").iterdir())) == len(rows)
    for file in ("table.md", "table.tex", "accuracy.png"):
        assert (out / file).stat().st_size
    assert "accuracy, %" in (out / "table.md").read_text()
    assert "table.md" in said


def test_a_result_is_that_of_its_run(killed):
    out, *_ = killed
    first = Store(out / "results.jsonl").results[0]
    found = evaluate_run(out / "runs" / first.config)
    report = json.loads(found.paths["json"].read_text())
    for split in ("validation", "test"):
        for metric in METRICS:
            value = report["splits"][split][metric]["value"]
            assert first.scores[split][metric] == pytest.approx(value, abs=1e-6)
    right = first.right
    assert right.mean() == pytest.approx(first.scores["test"]["accuracy"])
    assert {p.id for p in found.splits["test"]} == set(first.label)


def test_variants_that_come_to_the_same_are_one_run_with_a_result_each(killed, tmp_path):
    source = prepare(WORLD, killed[0].parent / "data").path
    command = [
        sys.executable, "-m", "experiments.run", "ablation", "--out", str(tmp_path),
        "--pool", str(killed[0]), "--seeds", "1", "--data", str(source),
        *(f"--set={k}={v}" for k, v in TINY.items()), "--only",
    ]  # fmt: skip
    alike = ["redifu", "no delta", "graph: none"]  # TINY has none of either
    for only in (alike[:2], alike):
        done = subprocess.run(
            [*command, *only], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    found = Store(tmp_path / "results.jsonl").results
    assert [each.variant for each in found] == alike
    assert len({each.config for each in found}) == 1
    assert all(f"| {name} |" in (tmp_path / "table.md").read_text() for name in alike)


def test_tables_are_drawn_again_without_training(killed):
    out, *_ = killed
    table = (out / "table.md").read_text()
    (out / "table.md").unlink()
    command = [sys.executable, "-m", "experiments.run", "modalities", "--redraw", "--out", str(out)]
    started = time.time()
    for packing in (["--pack"], []):
        done = subprocess.run(
            [*command, *packing], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert (out / "table.md").read_text() == table
    assert not (out / "results.jsonl").exists()
    assert all(each.stat().st_mtime < started for each in (out / "runs").rglob("*"))


def test_what_a_study_cannot_do_is_said_before_anything_is_trained(tmp_path):
    command = [sys.executable, "-m", "experiments.run", "main_table", "--out", str(tmp_path)]
    for arguments, problem in (
        (["--set", "model.heads=3"], "error: redifu: model.heads must divide model.width = 64"),
        (["--redraw"], "holds no result to draw"),
    ):
        done = subprocess.run(
            [*command, *arguments], cwd=ROOT, env=os.environ, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert problem in done.stderr
        assert not list(tmp_path.iterdir())
