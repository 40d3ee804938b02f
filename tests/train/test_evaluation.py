"""What a report says of its run is what the run is; the test split is read once and counted."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import flax
import jax
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

import emojax
from emojax.config import Config, DataConfig, RedifuConfig, TrainConfig, digest, from_dict, load
from emojax.data.posterior import contradictions, posterior
from emojax.data.prepare import PreparedCorpus, open_prepared, prepare
from emojax.data.simulator import DEFAULT, SimulatorConfig, simulate_with_sarcasm
from emojax.data.splits import content_hash, splits_hash
from emojax.errors import CheckpointError, DataError
from emojax.evaluate.predict import make_predict, predict_split
from emojax.models.registry import build
from emojax.train.evaluation import best_variables, evaluate_run, reference
from emojax.train.run import BEST, Run, open_run
from emojax.types import Prediction
from tests.tiny_run import TinyRun


@pytest.fixture
def run(tiny_run: TinyRun, tmp_path: Path) -> Run:
    """The tiny run in a folder of its own, its test split unread."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder, ignore=shutil.ignore_patterns("report", "test_*"))
    return open_run(folder)


def report_of(run: Run, **options) -> dict:
    paths = evaluate_run(run.folder, **options).paths
    assert paths["json"] == run.folder / "report" / "report.json"
    return json.loads(paths["json"].read_text("utf-8"))


def test_the_report_tells_where_it_comes_from(run: Run, tiny_run: TinyRun):
    report = report_of(run)
    told = report["provenance"]
    corpus = open_prepared(tiny_run.source)
    variables, record = best_variables(run.folder, run.model, corpus.signature)

    config = from_dict(load(tiny_run.folder.parent / "tiny.toml"))
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, source=str(tiny_run.source))
    )
    assert from_dict(told["config"]) == config
    assert told["config_hash"] == digest(config)
    assert told["seed"] == 3
    assert told["split_rule"] == "official"
    for split in ("train", "validation", "test"):
        assert told["split_hashes"][split] == {
            "ids": splits_hash(corpus.ids(split)), "content": content_hash(corpus.split(split)),
        }  # fmt: skip
    assert told["versions"] == {
        "emojax": emojax.__version__, "python": sys.version.split()[0], "jax": jax.__version__,
        "flax": flax.__version__, "numpy": np.__version__,
    }  # fmt: skip
    assert told["parameters"] == sum(
        np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"])
    )
    assert 0 < told["wall_seconds"] < 300
    assert 50 < told["peak_memory_mib"] < 20_000
    assert len(told["devices"]) == len(jax.devices())
    assert told["dataset"] == "simulated"
    assert told["lanes"] == 1
    work = told["flops_per_conversation"]
    assert work["utterances"] == round(np.mean([len(c) for c in corpus.split("test")]))
    # Each of the three inputs alone is projected to the model's width.
    inputs = 2 * work["utterances"] * sum(corpus.signature.widths) * config.model.width
    assert inputs < work["flops"] < 100 * inputs

    history = report["history"]
    assert [entry["epoch"] for entry in history] == [1, 2]
    selection = report["protocol"]["selection"]
    values = [entry["validation"]["weighted_f1"] for entry in history]
    assert selection["metric"] == "weighted_f1"
    assert "best validation weighted_f1" in selection["rule"]
    assert selection["epoch"] == int(np.argmax(values)) + 1 == record["epoch"] + 1
    assert selection["value"] == max(values)
    assert report["protocol"]["test_read"] is True


def test_its_scores_are_those_of_the_selected_epoch(run: Run):
    report = report_of(run)
    variables, record = best_variables(run.folder, run.model, run.corpus.signature)
    predict = make_predict(run.model)
    for split in ("validation", "test"):
        found = predict_split(predict, variables, run.batches(split))
        label = np.concatenate([p.label for p in found])
        decided = np.concatenate([p.probability.argmax(-1) for p in found])
        scores = report["splits"][split]
        assert scores["dialogues"] == len(run.corpus.ids(split))
        assert scores["accuracy"]["value"] == pytest.approx(accuracy_score(label, decided))
        weighted = f1_score(label, decided, average="weighted", zero_division=0)
        assert scores["weighted_f1"]["value"] == pytest.approx(weighted)
    selected = report["splits"]["validation"]["weighted_f1"]["value"]
    assert selected == pytest.approx(record["validation"]["weighted_f1"])
    train = np.concatenate([c.label for c in run.corpus.split("train")])
    names = run.corpus.signature.labels
    majority = report["splits"]["test"]["majority"]["label"]
    assert majority == names[np.bincount(train, minlength=len(names)).argmax()]


def test_every_reading_of_the_test_split_is_counted_and_told(run: Run):
    untouched = report_of(run, test=False)
    assert list(untouched["splits"]) == ["validation"]
    assert untouched["provenance"]["test_reads"] == 0
    assert not (run.folder / "test_reads.json").exists()
    text = (run.folder / "report" / "report.md").read_text("utf-8")
    assert "The test split was not read" in text

    for number, words in ((1, "was read once, after"), (2, "This is reading number 2 of")):
        assert report_of(run)["provenance"]["test_reads"] == number
        entries = json.loads((run.folder / "test_reads.json").read_text())
        assert [entry["config_hash"] for entry in entries] == [digest(run.config)] * number
        for name in ("report.md", "report.html"):
            text = (run.folder / "report" / name).read_text("utf-8")
            assert words in text
            assert text.count("reading number") == number - 1

    (run.folder / "test_reads.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read") as caught:
        evaluate_run(run.folder)
    assert caught.value.file == str(run.folder / "test_reads.json")


def test_another_world_is_not_held_against_the_default_ones_ceiling(run: Run):
    assert run.corpus.signature.name == "simulated"
    assert report_of(run)["reference"] is None


@pytest.fixture(scope="module")
def default_test_split(tmp_path_factory) -> PreparedCorpus:
    """The default world's test split, behind a smaller training split."""
    place = tmp_path_factory.mktemp("default")
    return prepare(dataclasses.replace(DEFAULT, train=5, validation=5), place)


def run_on(corpus: PreparedCorpus) -> Run:
    config = Config(DataConfig(), RedifuConfig(), TrainConfig())
    return Run(Path("nowhere"), config, corpus, build(config.model, corpus.signature))


def predictions(corpus: PreparedCorpus, of) -> list[Prediction]:
    return [
        Prediction(
            id=c.id, probability=of(c), contribution=np.zeros((len(c), 3), np.float32),
            present=c.present, speaker=c.speaker, label=c.label, transcript=c.transcript,
        )
        for c in corpus.split("test")
    ]  # fmt: skip


def test_the_ceiling_is_reached_by_the_posterior_alone(default_test_split: PreparedCorpus):
    corpus = default_test_split
    run, classes = run_on(corpus), len(corpus.signature.labels)
    exact = predictions(corpus, lambda c: posterior(c, DEFAULT))
    best = reference(run, exact, 2)
    assert best is not None
    assert best["reached"] == pytest.approx(1, abs=1e-12)
    label = np.concatenate([p.label for p in exact])
    decided = np.concatenate([p.probability.argmax(-1) for p in exact])
    assert best["bayes_accuracy"] == pytest.approx(accuracy_score(label, decided))
    always = predictions(corpus, lambda c: np.tile(np.eye(classes)[2], (len(c), 1)))
    floor = reference(run, always, 2)
    assert floor is not None
    assert floor["reached"] == 0
    assert floor["majority_accuracy"] == (label == 2).mean()
    assert reference(run, None, 2) is None


def test_contradictions_are_held_against_the_exact_posterior(default_test_split: PreparedCorpus):
    corpus = default_test_split
    run, uniform = run_on(corpus), predictions(corpus, lambda c: np.full((len(c), 6), 1 / 6))
    silent = reference(run, uniform, 2)
    assert silent is not None
    assert silent["contradiction"] is None
    heard = np.concatenate([p.present[:, 0] for p in uniform])
    exact = contradictions(list(corpus.split("test")), DEFAULT)
    draw = np.random.default_rng(0)

    def told(scores):
        said = [
            dataclasses.replace(p, contradiction=np.where(p.present[:, 0], score, np.nan))
            for p, score in zip(uniform, scores, strict=True)
        ]
        found = reference(run, said[::-1], 2)  # whatever their order
        assert found is not None
        return found["contradiction"]

    best, random = told(exact), told([draw.random(len(each)) for each in exact])
    drawn = simulate_with_sarcasm(dataclasses.replace(DEFAULT, train=0, validation=0))["test"]
    foreign = [s & (c.label != DEFAULT.labels.index("neutral")) for c, s in drawn]
    oracle = roc_auc_score(np.concatenate(foreign)[heard], np.concatenate(exact)[heard])
    assert best["roc_auc"] == best["bayes_roc_auc"] == pytest.approx(oracle, abs=1e-12)
    assert best["bayes_roc_auc"] == random["bayes_roc_auc"] > 0.97
    assert random["roc_auc"] == pytest.approx(0.5, abs=0.06)
    assert best["utterances"] == heard.sum()
    assert best["positives"] == np.concatenate(foreign)[heard].sum()


def test_the_ceiling_is_that_of_the_very_conversations(tmp_path: Path):
    """A world that differs in one number, or the same world with another test split."""
    for name, changes in {"inertia": {"inertia": 0.46}, "draw": {"seed": 1}}.items():
        config = dataclasses.replace(SimulatorConfig(), train=5, validation=5, **changes)
        corpus = prepare(config, tmp_path / name)
        assert len(corpus.ids("test")) == DEFAULT.test
        uniform = predictions(corpus, lambda c: np.full((len(c), 6), 1 / 6))
        assert reference(run_on(corpus), uniform, 2) is None


def test_the_best_variables_need_no_corpus_and_no_batch_of_it(run: Run):
    variables, record = best_variables(run.folder, run.model, run.corpus.signature)
    batch = next(run.batches("train").one_epoch()).batch
    shapes = jax.eval_shape(run.model.init, jax.random.key(0), batch)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), dict(shapes)
    )
    # The statistics are those of training, not the zeros and ones of `init`.
    assert not np.allclose(variables["statistics"]["text_standardise"]["mean"], 0)
    assert record["epoch"] in (0, 1)


def test_without_a_whole_checkpoint_there_is_no_report(run: Run):
    (step,) = [path for path in (run.folder / BEST).iterdir() if path.name.isdigit()]
    shutil.rmtree(step)
    with pytest.raises(CheckpointError, match="nothing was trained to the end of an epoch"):
        evaluate_run(run.folder)
    shutil.rmtree(run.folder / BEST)
    with pytest.raises(CheckpointError, match="nothing was trained to the end of an epoch"):
        evaluate_run(run.folder)
    assert not (run.folder / "test_reads.json").exists()
    assert not (run.folder / "report").exists()
