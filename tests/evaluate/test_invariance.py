"""Dependence on batch mates and on the future is measured as it is, of models known to have it."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

from emojax.config import MODELS, DataConfig, RedifuAuthorsConfig
from emojax.data.pipeline import Batches
from emojax.data.prepare import open_prepared
from emojax.evaluate.invariance import BATCHES, batch_mates, future
from emojax.evaluate.predict import Found, make_predict
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.train.evaluation import best_variables, evaluate_run
from emojax.train.run import open_run
from emojax.types import MODALITIES
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
    assert report["protocol"]["future"]["seen"] is True
    told = report["provenance"]
    for name in ("batch_mates", "future"):
        assert told[name] == report["protocol"][name]


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
        return Found(logits - np.log(np.exp(logits).sum(-1, keepdims=True)), None)

    found = batch_mates(predict, {}, run.batches("validation"))
    assert found.largest > 0.01


def looked_ahead(tiny_run, config, data=None):
    """What `future` finds of a model at random parameters on the tiny corpus."""
    run, corpus = open_run(tiny_run.folder), open_prepared(tiny_run.source)
    batches = run.batches("validation")
    if data is not None:
        batches = Batches(
            corpus.split("validation"), corpus.lengths("validation"), corpus.signature.widths, data
        )
    model = build(config, corpus.signature)
    variables = random_variables(model, next(iter(batches)).batch)
    variables["statistics"] = identity_statistics(corpus.signature.widths)
    predict = make_predict(model)
    found = future(predict, variables, batches)
    assert predict._cache_size() == len({(p.length, len(p.rows)) for p in batches.plan(0)})
    return found


@pytest.mark.parametrize("name", ["redifu", "cnn_rnn", "late_fusion"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_future_is_seen_by_models_that_look_ahead(tiny_run, name, causal):
    found = looked_ahead(tiny_run, MODELS[name](width=16, causal=causal))
    assert found.conversations >= 1
    assert found.seen == (name != "late_fusion" and not causal)


def test_the_published_model_sees_the_future(tiny_run):
    padded = DataConfig(layout="padded", batch_conversations=3, buckets=())
    assert looked_ahead(tiny_run, RedifuAuthorsConfig(width=16, heads=4), padded).seen


@pytest.mark.parametrize("what", ["text", "speaker", "label", "segment"])
def test_whatever_of_the_future_a_model_looks_at_is_found_out(tiny_run, what):
    """A model by hand that sums one thing over its whole row."""
    run = open_run(tiny_run.folder)
    classes = len(run.corpus.signature.labels)

    def predict(_, batch):
        seen = np.asarray(getattr(batch, what), np.float64)
        total = seen.reshape(len(seen), -1).sum(-1)[:, None, None]
        logits = np.broadcast_to(total * np.arange(classes), (*batch.segment.shape, classes))
        return Found(jax.nn.log_softmax(0.1 * logits), None)

    assert future(predict, {}, run.batches("validation")).seen


def test_what_is_past_may_matter_as_much_as_it_likes(tiny_run):
    """A model by hand that sums what was said so far, in each conversation of its row."""
    run = open_run(tiny_run.folder)
    classes = len(run.corpus.signature.labels)

    def predict(_, batch):
        said, segment = np.asarray(batch.text).sum(-1), np.asarray(batch.segment)
        so_far = np.tril(segment[:, :, None] == segment[:, None])
        total = np.einsum("bij,bj->bi", so_far, said)[..., None]
        return Found(jax.nn.log_softmax(total * np.arange(classes)), None)

    found = future(predict, {}, run.batches("validation"))
    assert found.largest == 0
    assert found.to_dict() == {"conversations": found.conversations, "largest": 0, "seen": False}


def test_single_utterances_have_no_future(tiny_run):
    run = open_run(tiny_run.folder)
    names = (*MODALITIES, "present", "speaker", "label", "transcript")
    first = next(iter(run.corpus.split("validation")))
    short = dataclasses.replace(first, **{name: getattr(first, name)[:1] for name in names})
    widths, one = run.corpus.signature.widths, np.ones(1, np.int32)
    assert (
        future(make_predict(run.model), {}, Batches([short], one, widths, run.config.data)) is None
    )
