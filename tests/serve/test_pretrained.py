"""A trained model called from somebody's own code says the same, whatever it was loaded from."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import emojax
from emojax.data.prepare import open_prepared
from emojax.data.text_encoder import open_text_encoder
from emojax.errors import CheckpointError, DataError
from emojax.interop.weights import Weights
from emojax.serve.pretrained import Pretrained, rounded
from emojax.types import MODALITIES
from tests.batches import SIGNATURE, pack, random_conversation, random_variables
from tests.interop.test_weights import config_of, weights
from tests.tiny_run import ENVIRONMENT, as_json
from tests.tiny_run import emojax as command_line


def given_of(conversation):
    return {name: getattr(conversation, name) for name in (*MODALITIES, "present", "speaker")}


@pytest.fixture(scope="module")
def conversations(tiny_run):
    return list(open_prepared(tiny_run.source).split("test"))


@pytest.fixture(scope="module")
def predicted(tiny_run, conversations, tmp_path_factory):
    """By conversation, what the command line says of it."""
    place = tmp_path_factory.mktemp("predicted")
    signature = open_prepared(tiny_run.source).signature
    lines = [as_json(each, signature) for each in conversations]
    (place / "in.jsonl").write_text("\n".join(lines), encoding="utf-8")
    done = command_line("predict", tiny_run.folder, place / "in.jsonl", "--out", place / "out")
    assert done.returncode == 0, done.stderr
    written = (place / "out" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {each["conversation"]: each["utterances"] for each in map(json.loads, written)}


def test_a_run_and_its_file_say_what_the_command_line_says(
    tiny_run, conversations, predicted, tmp_path
):
    path = emojax.save_pretrained(tiny_run.folder, tmp_path)
    assert path == tmp_path / "model.safetensors"
    ours = emojax.load(tiny_run.folder)
    others = [emojax.load(path), emojax.from_pretrained(tmp_path)]
    for each in conversations:
        expected = [list(u["probabilities"].values()) for u in predicted[each.id]]
        found = ours.predict(given_of(each))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=2e-6)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-6)
        for other in others:
            np.testing.assert_array_equal(other.predict(each), found)
        told = ours.explain(each)
        np.testing.assert_allclose(told.probability, found, atol=1e-6)
        contributions = [list(u["contributions"].values()) for u in predicted[each.id]]
        np.testing.assert_allclose(told.contribution, contributions, atol=1e-5)
        against = [u["contradiction"] for u in predicted[each.id]]
        np.testing.assert_allclose(told.contradiction, np.array(against, float), atol=2e-6)
    assert others[0].labels == ours.labels == open_prepared(tiny_run.source).signature.labels


def test_what_is_not_given_is_missing():
    model = Pretrained(weights("redifu"))
    whole = random_conversation(1, 6, missing=0.0)
    present = np.array([[True, True, False]] * 6)
    expected = model.predict(dataclasses.replace(whole, present=present))
    given = given_of(whole) | {"visual": None}
    del given["present"]
    np.testing.assert_array_equal(model.predict(given), expected)
    spoilt = given_of(whole) | {"visual": np.full((6, 6), np.nan), "present": present}
    np.testing.assert_array_equal(model.predict(spoilt), expected)
    lists = {name: x if x is None else x.tolist() for name, x in given.items()}
    np.testing.assert_array_equal(model.predict(lists), expected)


def test_speakers_are_told_apart_by_any_name():
    model, talk = Pretrained(weights("redifu")), random_conversation(2, 5)
    named = given_of(talk) | {"speaker": ["Ann", "Bob", "Ann", "Ann", "Cy"]}
    numbered = given_of(talk) | {"speaker": np.array([7, 3, 7, 7, 5])}
    np.testing.assert_array_equal(model.predict(named), model.predict(numbered))
    alone = model.predict(given_of(talk) | {"speaker": None})
    assert np.abs(alone - model.predict(named)).max() > 1e-4


def test_a_model_that_knows_its_speakers_takes_no_others():
    model, talk = Pretrained(weights("redifu_authors")), given_of(random_conversation(2, 3))
    named, numbered = talk | {"speaker": ["A", "C", "A"]}, talk | {"speaker": [0, 2, 0]}
    np.testing.assert_array_equal(model.predict(named), model.predict(numbered))
    for speaker in ("D", 3, -1):
        with pytest.raises(DataError, match=r"speaker'.*does not know.*It knows A, B, C"):
            model.predict(talk | {"speaker": ["A", speaker, "A"]})


@pytest.mark.parametrize("name", ["redifu", "redifu_authors"])
def test_padding_to_few_shapes_changes_nothing(name):
    made = weights(name)
    apply, model = jax.jit(made.build().apply), Pretrained(made)
    for length in (1, 19):
        talk = random_conversation(length, length)
        batch = pack([[talk]], 19)
        if name == "redifu_authors":
            batch = batch.replace(extent=np.array([length], np.int32))
        logits = np.asarray(apply(made.variables, batch).logits)[0, :length]
        expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        np.testing.assert_allclose(model.predict(talk), expected, atol=2e-6)
    assert [rounded(n) for n in (1, 16, 17, 128, 129, 500)] == [16, 16, 32, 128, 192, 512]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"audio": np.zeros((4, 5))}, "'audio'.*4 utterances where text has 3"),
        ({"audio": np.zeros((3, 9))}, "'audio'.*9 wide.*audio is 5 wide"),
        ({"audio": np.zeros(3)}, "'audio'"),
        ({"audio": "loud"}, "cannot be taken as arrays"),
        ({"audio": [[1, 2], [3], [4]]}, "cannot be taken as arrays"),
        ({"text": np.full((3, 7), np.inf)}, "'text'.*infinite"),
        ({"video": np.zeros((3, 6))}, "'video'.*no such field"),
        ({"present": np.ones((3, 2))}, "'present'.*shape"),
        ({"speaker": ["Ann"]}, "'speaker'.*1 utterances"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_does_not_fit_is_told_by_field(changes, problem):
    model = Pretrained(weights("single"))
    given = {m: np.zeros((3, w)) for m, w in zip(MODALITIES, SIGNATURE.widths, strict=True)}
    with pytest.raises(DataError, match=problem):
        model.predict(given | changes)


def test_nothing_to_read_is_told():
    model = Pretrained(weights("single"))
    for given in ({}, {"text": None}, {"text": np.zeros((0, 7))}):
        with pytest.raises(DataError, match=r"nothing to read|no utterances"):
            model.predict(given)
    with pytest.raises(DataError, match="a mapping of arrays, not ndarray"):
        model.predict(np.zeros((3, 7)))


def test_words_become_features_where_the_model_was_trained_so():
    encoder = open_text_encoder("tests/goldens/bert")
    signature = dataclasses.replace(SIGNATURE, widths=(encoder.width, 5, 6))
    made_by = {"name": encoder.name, "fingerprint": encoder.fingerprint}
    made = Weights(config_of("single"), signature, {}, made_by)
    talk = random_conversation(0, 2, signature=signature)
    module = made.build()
    variables = random_variables(module, pack([[talk]], 2))
    variables["statistics"]["text_standardise"] = {
        "mean": np.zeros(encoder.width, np.float32), "deviation": np.ones(encoder.width, np.float32)
    }  # fmt: skip
    model = Pretrained(dataclasses.replace(made, variables=variables))
    found = model.predict({"transcript": ["the cat", ""]})
    said = encoder.encode(encoder.pieces(["the cat"]))
    text = np.concatenate([said, np.zeros_like(said)])
    same = dataclasses.replace(
        talk, text=text, present=np.array([[True, False, False], [False] * 3])
    )
    logits = np.asarray(jax.jit(module.apply)(variables, pack([[same]], 2)).logits)[0]
    np.testing.assert_allclose(np.log(found) - np.log(found[:, :1]), logits - logits[:, :1],
                               atol=1e-4)  # fmt: skip
    with pytest.raises(DataError, match="Give `transcript` instead"):
        model.predict({"text": text})


def test_where_there_is_no_model(tmp_path):
    with pytest.raises(CheckpointError, match=r"neither run.json nor model.safetensors"):
        emojax.load(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        emojax.load(tmp_path / "none.safetensors")
    with pytest.raises(AttributeError, match="no attribute 'saves'"):
        _ = emojax.saves


def test_three_lines_in_a_fresh_process(tmp_path):
    """As in the README, and importing emojax is no wait by itself."""
    path = emojax.save_pretrained(Pretrained(weights("bc_lstm")), tmp_path / "m.safetensors")
    code = f"""
import emojax, sys
assert "jax" not in sys.modules
model = emojax.load({str(path)!r})
print(model.predict({{"text": [[0.5] * 7] * 2, "speaker": ["Ann", "Bob"]}}).shape, model.labels)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=ENVIRONMENT, capture_output=True,
        text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"(2, 4) {SIGNATURE.labels}\n"
