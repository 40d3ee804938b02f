"""Batch mates are measured as they are: nothing for redifu, a lot for the published model."""

from __future__ import annotations

import json

import numpy as np

from emojax.config import DataConfig, RedifuAuthorsConfig
from emojax.data.pipeline import Batches
from emojax.data.prepare import open_prepared
from emojax.evaluate.invariance import BATCHES, batch_mates
from emojax.evaluate.predict import make_predict
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.train.evaluation import best_variables, evaluate_run
from emojax.train.run import open_run
from tests.batches import random_variables


def measured(folder):
    run = open_run(folder)
    variables, _ = best_variables(folder, run.model, run.corpus.signature)
    return batch_mates(make_predict(run.model), variables, run.batches("validation"))


def test_redifu_does_not_care(tiny_run):
    found = measured(tiny_run.folder)
    assert 1 <= found.conversations <= BATCHES
    assert found.invariant
    report = json.loads(evaluate_run(tiny_run.folder, test=False).paths["json"].read_text())
    assert report["protocol"]["batch_mates"]["invariant"] is True


def test_the_published_model_does(tiny_run):
    corpus = open_prepared(tiny_run.source)
    model = build(RedifuAuthorsConfig(width=16, heads=4), corpus.signature)
    padded = DataConfig(layout="padded", batch_conversations=3, buckets=())
    batches = Batches(
        corpus.split("validation"), corpus.lengths("validation"), corpus.signature.widths, padded
    )
    variables = random_variables(model, next(iter(batches)).batch)
    variables["statistics"] = identity_statistics(corpus.signature.widths)
    found = batch_mates(make_predict(model), variables, batches)
    assert found.conversations == 2
    assert not found.invariant


def test_a_model_that_looks_at_its_neighbours_is_found_out(tiny_run):
    """A model by hand whose answer is the sum over its row."""
    run = open_run(tiny_run.folder)
    classes = len(run.corpus.signature.labels)

    def predict(_, batch):
        total = np.asarray(batch.text).sum((1, 2), keepdims=True)
        logits = np.repeat(total * np.ones(batch.segment.shape)[..., None], classes, -1)
        logits = logits * np.arange(classes)
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True)), None, None)

    found = batch_mates(predict, {}, run.batches("validation"))
    assert found.largest > 0.01
