"""Splits are fixed by the ids alone, disjoint, complete and of the promised size."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.data.readers import Corpus, read_corpus
from emojax.data.splits import (
    check_rule,
    content_hash,
    fold,
    hold_out,
    leave_one_session_out,
    make_splits,
    splits_hash,
)
from emojax.errors import ConfigError, DataError
from tests.data.conftest import SIGNATURE, make_conversation

IDS = st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=60)


@given(ids=IDS, fraction=st.floats(0.01, 0.5), seed=st.integers(0, 1000))
def test_hold_out(ids, fraction, seed):
    ids = sorted(ids)
    train, validation = hold_out(ids, fraction)
    assert len(validation) == max(1, round(fraction * len(ids)))
    assert sorted(train + validation) == ids
    shuffled = random.Random(seed).sample(ids, len(ids))
    assert hold_out(shuffled, fraction) == (train, validation)

    def rank(name: str) -> bytes:
        return hashlib.blake2b(name.encode()).digest()

    assert max(map(rank, validation)) < min(map(rank, train))


@given(ids=IDS, new=st.text(min_size=1, max_size=8))
def test_a_new_dialogue_moves_at_most_one_other(ids, new):
    before = set(hold_out(sorted(ids), 0.25)[1])
    after = set(hold_out(sorted(ids | {new}), 0.25)[1])
    assert len(before - after) <= 1


def test_hold_out_is_the_same_forever():
    ids = [f"Ses{s:02d}F_impro{n:02d}" for s in range(1, 5) for n in range(1, 6)]
    assert hold_out(ids, 0.1)[1] == ("Ses01F_impro03", "Ses03F_impro04")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_impossible_fractions(fraction):
    with pytest.raises(ConfigError, match="validation_fraction"):
        hold_out(["a", "b"], fraction)


def test_too_few_or_doubled_dialogues():
    with pytest.raises(DataError, match="cannot hold out 1 of 1"):
        hold_out(["a"], 0.1)
    with pytest.raises(DataError, match="twice"):
        hold_out(["a", "a", "b"], 0.1)


@given(session=st.integers(1, 5), sizes=st.lists(st.integers(3, 9), min_size=5, max_size=5))
def test_leave_one_session_out(session, sizes):
    ids = [f"Ses{s:02d}M_script{n}" for s in range(1, 6) for n in range(sizes[s - 1])]
    splits = leave_one_session_out(ids, session)
    assert sorted(itertools.chain(*splits.values())) == sorted(ids)
    assert set(splits["test"]) == {name for name in ids if name.startswith(f"Ses{session:02d}")}
    rest = len(ids) - len(splits["test"])
    assert len(splits["validation"]) == max(1, round(Fraction(1, 10) * rest))


def test_leave_one_session_out_needs_sessions():
    with pytest.raises(DataError, match="does not tell a session"):
        leave_one_session_out(["dialogue 1"], 1)
    with pytest.raises(DataError, match=r"session 7.*1, 2"):
        leave_one_session_out(["Ses01F_1", "Ses02F_1"], 7)


@given(names=st.sets(st.text(max_size=5), min_size=2, max_size=30), data=st.data())
def test_every_dialogue_is_held_out_in_one_fold(names, data):
    n = data.draw(st.integers(2, len(names)))
    shuffled = data.draw(st.permutations(sorted(names)))
    folds = [fold(shuffled, k, n) for k in range(1, n + 1)]
    held = [name for _, validation in folds for name in validation]
    assert len(held) == len(names)
    assert set(held) == names
    sizes = [len(validation) for _, validation in folds]
    assert max(sizes) - min(sizes) <= 1
    for train, validation in folds:
        assert set(train) == names - set(validation)
        assert (train, validation) == fold(sorted(names), folds.index((train, validation)) + 1, n)


def test_impossible_folds():
    with pytest.raises(DataError, match="2 training dialogues do not make 3 folds"):
        fold(["a", "b"], 1, 3)
    with pytest.raises(DataError, match="twice"):
        fold(["a", "a", "b"], 1, 2)


@pytest.mark.parametrize("published", [True, False])
def test_folds_leave_the_test_alone(published: bool):
    whole = corpus({"train": 9, "test": 3} | ({"validation": 3} if published else {}))
    splits = make_splits(whole, "fold:2/3")
    assert splits["test"] == whole.splits["test"]
    assert len(splits["validation"]) == (4 if published else 3)
    seen = {c.id for c in splits["train"] + splits["validation"]}
    assert seen == {c.id for s, found in whole.splits.items() if s != "test" for c in found}


@pytest.mark.parametrize(
    "rule",
    ["", "random", "leave-one-session-out", "leave-one-session-out:x", "fold", "fold:0/3",
     "fold:4/3", "fold:1/1", "fold:1", "fold:1/3/5"],
)  # fmt: skip
def test_unknown_rules(rule):
    with pytest.raises(ConfigError, match="unknown"):
        check_rule(rule)


def corpus(sizes: dict[str, int], name: str = "small") -> Corpus:
    splits = {
        split: tuple(make_conversation(f"{split}{n}", 3, n) for n in range(size))
        for split, size in sizes.items()
    }
    signature = dataclasses.replace(SIGNATURE, name=name)
    return Corpus(signature, "layout", splits, (), Path("x"))


def test_official_splits_are_kept():
    given_splits = corpus({"train": 9, "validation": 2, "test": 3})
    assert make_splits(given_splits, validation_fraction=0.5) == dict(given_splits.splits)


def test_validation_is_carved_out_of_training_alone():
    whole = corpus({"train": 20, "test": 30})
    splits = make_splits(whole)
    assert splits["test"] == whole.splits["test"]
    assert {c.id for c in splits["train"] + splits["validation"]} == {
        c.id for c in whole.splits["train"]
    }
    assert len(splits["validation"]) == 2
    assert len(make_splits(whole, validation_fraction=0.3)["validation"]) == 6


def test_mosi_holds_out_10_of_62():
    assert len(make_splits(corpus({"train": 62, "test": 31}, "mosi"))["validation"]) == 10


def test_make_splits_by_session(write, iemocap_content):
    splits = make_splits(read_corpus(write(iemocap_content)), "leave-one-session-out:2")
    assert {each.id[:5] for each in splits["test"]} == {"Ses02"}
    assert {each.id[:5] for each in splits["train"]} == {"Ses01", "Ses03", "Ses04", "Ses05"}
    assert [len(each) for each in splits.values()] == [22, 2, 6]


def test_hashes_tell_what_changed():
    assert splits_hash(["a", "b"]) == splits_hash(["b", "a"])
    assert len({splits_hash(ids) for ids in (["a", "b"], ["ab"], ["a"], [], ["a", "b", ""])}) == 5
    one = make_conversation("c", 4)
    hashes = {content_hash([one])}
    for field in ("text", "audio", "visual", "present", "speaker", "label"):
        changed = getattr(one, field).copy()
        changed.flat[-1] = not changed.flat[-1] if field == "present" else changed.flat[-1] + 1
        hashes.add(content_hash([dataclasses.replace(one, **{field: changed})]))
    hashes.add(content_hash([dataclasses.replace(one, id="d")]))
    hashes.add(content_hash([dataclasses.replace(one, transcript=("",) * 4)]))
    hashes.add(content_hash([one, one]))
    assert len(hashes) == 10
    assert content_hash([dataclasses.replace(one, text=np.asfortranarray(one.text))]) in hashes
