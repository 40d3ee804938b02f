"""A share of the training conversations, and corrupted ones: what a run sees, all of it alike."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from emojax.config import Config, DataConfig
from emojax.config.corruption import parse_all
from emojax.data.altered import altered
from emojax.data.corruptions import corrupt
from emojax.data.prepare import PreparedCorpus, prepare
from emojax.data.splits import places_of_share
from emojax.data.statistics import fit_statistics, spread
from emojax.train.run import create_run, open_run
from emojax.types import MODALITIES, Conversation
from tests.tiny_run import WORLD

CORRUPT = ("noise:audio+visual:snr=0:share=0.5:length=3", "missing:rate=0.4")
FIELDS = [field.name for field in dataclasses.fields(Conversation)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> PreparedCorpus:
    return prepare(WORLD, tmp_path_factory.mktemp("data"))


def same(one: Conversation, other: Conversation) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


def equal(ours, theirs) -> None:
    np.testing.assert_array_equal(ours.label_counts, theirs.label_counts)
    for m in MODALITIES:
        np.testing.assert_array_equal(ours.mean[m], theirs.mean[m])
        np.testing.assert_array_equal(ours.deviation[m], theirs.deviation[m])


def test_a_corpus_that_nobody_alters_is_itself(corpus):
    assert altered(corpus, DataConfig()) is corpus


def test_a_smaller_share_lies_inside_a_larger_one():
    ids = [f"d{i}" for i in range(40)]
    kept = [places_of_share(ids, share) for share in (1e-9, 0.1, 0.25, 0.5, 0.9, 1)]
    assert [len(each) for each in kept] == [1, 4, 10, 20, 36, 40]
    for small, large in itertools.pairwise(kept):
        assert set(small) <= set(large)
        assert list(small) == sorted(small)
    # The order of a file has no say in who is in.
    names = {ids[place] for place in kept[2]}
    turned = ids[::-1]
    assert {turned[place] for place in places_of_share(turned, 0.25)} == names


@pytest.mark.parametrize("corruptions", [(), CORRUPT])
def test_a_share_of_the_training_conversations_is_all_that_a_run_knows(corpus, corruptions):
    found = altered(corpus, DataConfig(train_share=0.5, corrupt=corruptions))
    ids = found.ids("train")
    assert len(ids) == len(corpus.ids("train")) // 2
    assert set(ids) < set(corpus.ids("train"))
    records = list(found.split("train"))
    assert tuple(each.id for each in records) == ids
    assert [len(each) for each in records] == found.lengths("train").tolist()
    classes = len(corpus.signature.labels)
    equal(found.statistics, fit_statistics(records, corpus.signature.widths, classes))
    for split in ("validation", "test"):
        assert found.ids(split) == corpus.ids(split)
        np.testing.assert_array_equal(found.lengths(split), corpus.lengths(split))
    assert found.hashes == corpus.hashes


def test_training_and_validation_are_corrupted_and_the_test_is_not(corpus):
    found = altered(corpus, DataConfig(corrupt=CORRUPT))
    level = spread(corpus.split("train"), corpus.signature.widths)
    for split in ("train", "validation"):
        pairs = list(zip(found.split(split), corpus.split(split), strict=True))
        assert all(same(now, corrupt(was, parse_all(CORRUPT), level)) for now, was in pairs)
        assert not any(same(now, was) for now, was in pairs)
    for now, was in zip(found.split("test"), corpus.split("test"), strict=True):
        assert same(now, was)


def test_noise_is_measured_against_the_whole_training_split_as_it_was(corpus):
    whole = corpus.spread
    for m, level in altered(corpus, DataConfig(train_share=0.3, corrupt=CORRUPT)).spread.items():
        np.testing.assert_array_equal(level, whole[m])


def test_a_run_is_opened_on_what_it_was_started_on(corpus, tmp_path):
    data = DataConfig(
        source=str(corpus.path), train_share=0.5, corrupt=CORRUPT, buckets=(16,),
        batch_utterances=64,
    )  # fmt: skip
    started = create_run(tmp_path / "run", Config(data=data))
    opened = open_run(tmp_path / "run")
    for run in (started, opened):
        assert len(run.corpus.ids("train")) == 6
        batches = run.batches("train", training=True)
        places = {i for plan in batches.plan(0) for row in plan.rows for i in row}
        assert {batches.records[i].id for i in places} == set(run.corpus.ids("train"))
    equal(started.corpus.statistics, opened.corpus.statistics)


def test_a_split_can_be_corrupted_once_more(corpus, tmp_path):
    data = DataConfig(source=str(corpus.path), buckets=(16,), batch_utterances=64)
    run = create_run(tmp_path / "run", Config(data=data))
    how = parse_all(["drop:audio:share=1"])
    clean, spoilt = (
        [packed.batch.present for packed in run.batches("test", corruptions=c).one_epoch()]
        for c in ((), how)
    )  # fmt: skip
    for before, after in zip(clean, spoilt, strict=True):
        assert before[..., 1].any()
        assert not after[..., 1].any()
        np.testing.assert_array_equal(before[..., [0, 2]], after[..., [0, 2]])
