"""Test splits under corruptions: looked at once for each, and drawn along an axis."""

from __future__ import annotations

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest

from emojax.config.corruption import parse_all
from emojax.data.corruptions import corrupt
from emojax.data.prepare import open_prepared
from emojax.errors import DataError
from emojax.evaluate.predict import make_predict
from emojax.evaluate.significance import holm
from emojax.train import evaluation
from emojax.train.evaluation import best_variables
from emojax.train.run import open_run
from experiments import curves, run, selection, tables
from experiments.curves import Panel
from experiments.outcome import result_of
from experiments.sheet import Sheet
from experiments.store import METRICS, Result, Store
from tests.batches import pack

CONDITIONS = ("missing:rate=0.5", "noise:snr=100", "drop:share=1 freeze:visual:share=0.5")


@pytest.fixture(scope="module")
def looked_at(tiny_run, tmp_path_factory):
    """The result of the tiny run under conditions, and the functions that predicted it."""
    folder = tmp_path_factory.mktemp("looked") / "run"
    shutil.copytree(tiny_run.folder, folder, ignore=shutil.ignore_patterns("report", "test_*"))
    made = []

    def making(*arguments, **options):
        made.append(make_predict.__wrapped__(*arguments, **options))
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "make_predict", making)
        found = result_of(folder, "redifu", CONDITIONS)
    return folder, found, made


def test_a_condition_is_what_the_model_says_of_corrupted_conversations(looked_at, tiny_run):
    folder, found, _ = looked_at
    run, corpus = open_run(folder), open_prepared(tiny_run.source)
    variables, _ = best_variables(folder, run.model, corpus.signature)
    for condition in CONDITIONS:
        spoilt = [
            corrupt(each, parse_all(condition.split()), corpus.spread)
            for each in corpus.split("test")
        ]
        lost = np.mean(np.concatenate([~each.present for each in spoilt]))
        assert found.missing[condition] == pytest.approx(lost)
        output = jax.jit(run.model.apply)(variables, pack([[each] for each in spoilt], 16))
        decided = np.asarray(output.logits).argmax(-1)
        expected = {c.id: decided[i, : len(c)].tolist() for i, c in enumerate(spoilt)}
        assert found.conditions[condition]["predicted"] == expected
        right = np.concatenate([np.array(expected[c.id]) == c.label for c in spoilt])
        assert found.conditions[condition]["scores"]["accuracy"] == pytest.approx(right.mean())
    assert found.missing[CONDITIONS[2]] == 1
    assert found.missing[""] == pytest.approx(found.missing[CONDITIONS[1]])
    assert found.conditions[CONDITIONS[1]]["predicted"] == found.predicted


def test_one_program_predicts_all_conditions_and_the_reading_is_counted(looked_at):
    folder, _, made = looked_at
    plain = made[-1]
    assert len(made) == 2
    assert plain._cache_size() == len({p.length for p in open_run(folder).batches("test").plan(0)})
    assert len(json.loads((folder / "test_reads.json").read_text())) == 2


def test_a_result_under_a_condition_is_read_back_as_it_was_written(looked_at, tmp_path):
    _, found, _ = looked_at
    Store(tmp_path / "results.jsonl").append(found)
    (read,) = Store(tmp_path / "results.jsonl").results
    assert dataclasses.asdict(read) == dataclasses.asdict(found)
    assert read.under("") is read
    assert read.under("missing:rate=0.1") is None
    under = read.under(CONDITIONS[0])
    assert under.scores["test"]["accuracy"] == pytest.approx(under.right.mean())
    assert under.label == read.label
    assert [set(record) for record in read.history] == [{"epoch", "validation"}] * 2


def made_up(variant: str, seed: int, rates: dict[str, float]) -> Result:
    """A run that has each utterance right with the chance of the condition; "" is the split."""
    draw = np.random.default_rng([seed, *variant.encode()])
    label = {f"d{i:02d}": np.random.default_rng(i).integers(-1, 3, 9).tolist() for i in range(40)}
    found = Result(variant, seed, f"{variant} {seed}", "c", "", {}, 1.0, 10, label, {}, {})

    def decided(rate: float) -> dict:
        predicted = {
            d: [y if draw.random() < rate else (y + 1) % 3 for y in each]
            for d, each in label.items()
        }
        accuracy = float(dataclasses.replace(found, predicted=predicted).right.mean())
        scores = dict.fromkeys(METRICS, 0.5) | {"accuracy": accuracy}
        return {"predicted": predicted, "scores": scores}

    by_condition = {condition: decided(rate) for condition, rate in rates.items()}
    clean = by_condition.pop("")
    return dataclasses.replace(
        found, predicted=clean["predicted"], conditions=by_condition,
        scores={"validation": clean["scores"], "test": clean["scores"]},
        missing={"": 0.125, "half": 0.5, "odd": 0.25},
    )  # fmt: skip


RATES = {
    "ours": {"": 0.8, "half": 0.75, "odd": 0.5},
    "good": {"": 0.8, "half": 0.55, "odd": 0.5},
    "bad": {"": 0.5, "half": 0.4, "odd": 0.9},
}
PANEL = Panel(
    title="Some are missing", axis="rate", reference="ours",
    lines={name: {0.0: (name, ""), 0.5: (name, "half")} for name in ("good", "ours", "bad")},
)  # fmt: skip


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return [made_up(name, seed, rates) for name, rates in RATES.items() for seed in range(3)]


def test_each_place_is_a_comparison_of_its_own(results):
    found = curves.look_up(PANEL, results)
    at = {x: {name: line[x] for name, line in found.items()} for x in PANEL.places}
    for x, condition in ((0.0, ""), (0.5, "half")):
        under = [each.under(condition) for each in results]
        for row in tables.compare(under, list(RATES), "ours"):
            assert at[x][row.variant].values == row.values
        alone = []
        for name in ("good", "bad"):
            both = [each for each in under if each.variant in ("ours", name)]
            (row,) = (r for r in tables.compare(both, list(RATES), "ours") if r.variant == name)
            alone.append(row.p_bootstrap)
        assert [at[x][name].p_bootstrap for name in ("good", "bad")] == holm(alone)


def test_the_table_marks_what_differs_and_counts_who_is_behind(results):
    missing = {name: share for each in results for name, share in each.missing.items()}
    sheet = curves.sheet(PANEL, curves.look_up(PANEL, results), missing)
    assert list(sheet.header) == ["rate", "0", "0.5"]
    rows = {row[0]: row[1:] for row in sheet.rows}
    assert list(rows) == ["observations missing, %", "ours", "good", "bad", "ours ahead of"]
    assert rows["observations missing, %"] == ["12.5", "50.0"]
    assert not any("*" in cell for cell in rows["ours"])
    assert "*" not in rows["good"][0]
    assert all(cell.endswith("*†") for cell in (rows["good"][1], *rows["bad"]))
    assert rows["ours ahead of"][1] == "2 of 2 (2)"
    for name in RATES:
        mean = np.mean([r.under("half").right.mean() for r in results if r.variant == name])
        assert rows[name][1].startswith(f"{100 * mean:.1f} ± ")
    assert all(line.count("|") == 4 for line in sheet.markdown().splitlines() if "|" in line)
    assert sheet.latex().count(r"\\") == 6


def test_lines_may_go_from_variant_to_variant_and_have_holes(results):
    panel = Panel(
        title="Any", axis="x", reference="ours",
        lines={"ours": {1: ("good", ""), 2: ("ours", "")}, "other": {2: ("bad", "odd")}},
    )  # fmt: skip
    found = curves.look_up(panel, results)
    assert set(found["other"]) == {2}
    assert found["other"][2].difference > 0
    good = np.mean([r.right.mean() for r in results if r.variant == "good"])
    assert found["ours"][1].mean("accuracy") == pytest.approx(good)
    sheet = curves.sheet(panel, found, {})
    assert sheet.rows[1][1] == "–"
    assert list(sheet.rows[-1]) == ["ours ahead of", "0 of 0 (0)", "0 of 1 (0)"]
    assert curves.conditions([PANEL, panel]) == ["half", "odd"]


def test_what_has_no_results_yet_is_left_out(results):
    panel = dataclasses.replace(
        PANEL, lines={**PANEL.lines, "late": {0.5: ("late", "half"), 0.0: ("late", "")}}
    )
    assert set(curves.look_up(panel, results)) == set(PANEL.lines)
    assert curves.look_up(panel, []) == {}
    panel = dataclasses.replace(PANEL, lines={"ours": {0.0: ("ours", ""), 1: ("ours", "never")}})
    assert set(curves.look_up(panel, results)["ours"]) == {0.0}


def test_pages_and_pictures_are_written(results, tmp_path):
    curves.draw([PANEL, PANEL, PANEL], results, tmp_path, "study", "What is it like?")
    page = (tmp_path / "curves.md").read_text()
    assert page.startswith("# study: What is it like?\n\n## Some are missing\n\n| rate | 0 | 0.5 |")
    assert page.count(curves.NOTE) == 1
    assert (tmp_path / "curves.tex").read_text().count(r"\begin{tabular}{lrr}") == 3
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_a_study_is_drawn_with_all_that_it_asks_for(results, tmp_path):
    def extra(results, title):
        return Sheet(title, ["runs"], [[str(len(results))]], "")

    study = types.SimpleNamespace(
        __doc__="What is it like?", VARIANTS=dict.fromkeys(RATES), REFERENCE="ours",
        PANELS=[PANEL], SHEETS={"extra": extra},
    )  # fmt: skip
    store = Store(tmp_path / "results.jsonl")
    for each in results:
        store.append(each)
    run.draw(study, "study", Store(store.path), tmp_path)
    assert (tmp_path / "extra.md").read_text() == "# study\n\n| runs |\n| --- |\n| 9 |\n"
    for name in ("table", "curves", "extra"):
        assert (tmp_path / f"{name}.tex").read_text().startswith(r"\begin{tabular}")
    assert "| ours | 3 |" in (tmp_path / "table.md").read_text()
    assert "ours ahead of" in (tmp_path / "curves.md").read_text()
    page = (tmp_path / "table.html").read_text()
    assert "Some are missing" in page


def test_panels_without_results_are_not_drawn(results, tmp_path):
    never = dataclasses.replace(PANEL, title="Never", lines={"ours": {0.0: ("ours", "never")}})
    assert curves.draw([never], results, tmp_path, "study", "Why?") == []
    assert not list(tmp_path.iterdir())
    (sheet,) = curves.draw([never, PANEL], results, tmp_path, "study", "Why?")
    assert sheet.title == PANEL.title


def watched(variant: str, seed: int, validation: list[float], test: list[float]) -> Result:
    """A run of some epochs, the one with the best validation score chosen."""
    history = [
        {"epoch": i, "validation": {"weighted_f1": v},
         "test": {"weighted_f1": t, "accuracy": t + 0.01}}
        for i, (v, t) in enumerate(zip(validation, test, strict=True))
    ]  # fmt: skip
    chosen = history[int(np.argmax(validation))]["test"]
    return Result(
        variant, seed, f"{variant} {seed}", "c", "", {"test": chosen}, 1.0, 10, {}, {}, {},
        history=history,
    )  # fmt: skip


def test_what_the_best_test_epoch_adds_is_told():
    results = [
        watched("plain", 0, [0.5, 0.6, 0.55], [0.50, 0.52, 0.58]),
        watched("plain", 1, [0.5, 0.4, 0.3], [0.54, 0.50, 0.40]),
        watched("better", 0, [0.5, 0.6], [0.60, 0.61]),
    ]
    assert selection.best_epoch(results[0])["epoch"] == 2
    sheet = selection.sheet(results, "protocol")
    assert [row[0] for row in sheet.rows] == ["better", "plain"]
    better, plain = sheet.rows
    assert better[1:] == ["1", "62.0", "61.0", "62.0", "61.0", "+0.0", "+0.0", "62.0", "61.0"]
    assert plain[1:] == [
        "2", "54.0 ± 1.4", "53.0 ± 1.4", "57.0 ± 2.8", "56.0 ± 2.8", "+3.0 ± 4.2", "+3.0 ± 4.2",
        "59.0", "58.0",
    ]  # fmt: skip
    assert len(sheet.header) == len(better)
    unseen = dataclasses.replace(results[0], history=[{"epoch": 0, "validation": {}}])
    with pytest.raises(DataError, match=r"plain, seed 0, has no test scores.*train\.watch_test"):
        selection.sheet([unseen], "protocol")
