"""The study of contradiction: its tables say what is in the records, its looks are the model's."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from emojax.data.posterior import Words
from emojax.errors import DataError
from emojax.evaluate.predict import make_predict, predict_split
from emojax.train.evaluation import best_variables
from emojax.train.run import open_run
from experiments.contradiction import (
    DISTANCES,
    OUTPUT,
    SPLITS,
    accuracy,
    auc,
    candidates,
    looks,
    scores,
    table,
)
from tests.batches import pack

AGAINST = ("everything", "everything but words")


def test_distances_are_those_of_their_names():
    draw = np.random.default_rng(0)
    w, p = draw.dirichlet(np.ones(5), 20), draw.dirichlet(np.ones(5), 20)
    found = {name: distance(w, p) for name, distance in DISTANCES.items()}
    np.testing.assert_allclose(found["KL(w | p)"], entropy(w, p, axis=-1))
    np.testing.assert_allclose(found["KL(p | w)"], entropy(p, w, axis=-1))
    np.testing.assert_allclose(found["Jensen-Shannon"], jensenshannon(w, p, axis=-1) ** 2)
    for i in range(20):
        assert found["1 - p(argmax w)"][i] == 1 - p[i, w[i].argmax()]
        assert found["1 - w(argmax p)"][i] == 1 - w[i, p[i].argmax()]
        assert found[OUTPUT][i] == pytest.approx(w[i].max() - w[i] @ p[i])
    for each in DISTANCES.values():
        assert each(np.eye(3)[0], np.eye(3)[1]) > each(np.eye(3)[0], np.eye(3)[0])


def test_looks_are_what_the_model_says(tiny_run):
    run = open_run(tiny_run.folder)
    variables, _ = best_variables(run.folder, run.model, run.corpus.signature)
    found = looks(run, variables, "test")
    predicted = predict_split(make_predict(run.model), variables, run.batches("test"))
    everything = np.concatenate([p.probability for p in predicted])
    np.testing.assert_allclose(found.everything, everything, atol=1e-6)
    mute = [
        dataclasses.replace(c, present=c.present & [False, True, True])
        for c in run.corpus.split("test")
    ]
    logits = jax.jit(run.model.apply)(variables, pack([[each] for each in mute], 16)).logits
    rest = [jax.nn.softmax(logits[i, : len(each)]) for i, each in enumerate(mute)]
    np.testing.assert_allclose(found.rest, np.concatenate(rest), atol=1e-5)
    heard = np.concatenate([p.present[:, 0] for p in predicted])
    against = np.concatenate([p.contradiction for p in predicted])
    output = DISTANCES[OUTPUT](found.words, found.everything)
    np.testing.assert_allclose(output[heard], against[heard], atol=1e-6)
    label = np.concatenate([p.label for p in predicted])
    assert accuracy(found.everything, run) == (everything.argmax(-1) == label).mean()


def test_another_corpus_is_refused(tiny_run, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny").symlink_to(tiny_run.folder)
    with pytest.raises(DataError, match="not the embedded corpus"):
        scores(tmp_path, "tiny", {})
    assert not (tmp_path / "scores").exists()


def test_only_words_that_are_there_are_scored():
    heard = np.array([True, True, True, False])
    truth = Words(heard, np.array([True, False, False, True]), np.zeros(4))
    assert auc(np.array([0.5, 0.4, 0.6, np.nan]), truth) == 0.5


def test_tables_say_what_the_records_say():
    truth = {
        split: Words(np.ones(4, bool), np.array([1, 0, 1, 0], bool), np.array([3.0, 1, 2, 2]))
        for split in SPLITS
    }
    runs = [
        {
            "validation": {a: dict.fromkeys(DISTANCES, 0.6 + s) for a in AGAINST},
            "test": 0.7 + s, "accuracy": 0.8,
        }
        for s in (0.0, 0.1)
    ]  # fmt: skip
    found = table({"one": runs, "other": runs[:1]}, truth)
    assert found.rows[0] == ["one", "2", "80.0 ± 0.0", "0.750 ± 0.071", "66.7 ± 18.9"]
    assert found.rows[1] == ["other", "1", "80.0", "0.700", "53.3"]
    assert found.rows[2][3] == "0.875"
    chosen = candidates({"one": runs, "other": runs[:1]})
    assert len(chosen.rows) == 2 * len(DISTANCES)
    assert chosen.rows[0] == [f"{OUTPUT}, p from everything", "0.650 ± 0.071", "0.600"]
