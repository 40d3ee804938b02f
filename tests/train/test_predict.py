"""Predictions of files: those of the evaluation, whatever form the conversations come in."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from emojax.config import RedifuAuthorsConfig, RedifuConfig
from emojax.data.prepare import open_prepared
from emojax.errors import CheckpointError, DataError
from emojax.evaluate.predict import make_predict, predict_split
from emojax.train.evaluation import best_variables
from emojax.train.predict import embeds_speakers, predict_file
from emojax.train.run import open_run
from emojax.types import MODALITIES, Conversation
from tests.batches import random_conversation
from tests.tiny_run import TinyRun, as_json, on_terminal

ROUNDING = 1e-6


@pytest.fixture(scope="module")
def whole(tiny_run: TinyRun, tmp_path_factory) -> dict[str, dict]:
    """By id, what the tiny run says of all conversations of its own corpus."""
    out = tmp_path_factory.mktemp("whole")
    predict_file(tiny_run.folder, tiny_run.source, out)
    return read(out)


def read(out: Path) -> dict[str, dict]:
    lines = (out / "predictions.jsonl").read_text("utf-8").splitlines()
    return {content["conversation"]: content for content in map(json.loads, lines)}


def probabilities(content: dict) -> np.ndarray:
    return np.array([list(u["probabilities"].values()) for u in content["utterances"]])


def write_lines(path: Path, conversations: list[Conversation], signature) -> Path:
    path.write_text("".join(as_json(c, signature) + "\n" for c in conversations), "utf-8")
    return path


def test_they_are_the_evaluations(tiny_run: TinyRun, whole):
    run = open_run(tiny_run.folder)
    variables, _ = best_variables(tiny_run.folder, run.model, run.corpus.signature)
    expected = predict_split(make_predict(run.model), variables, run.batches("test"))
    assert len(expected) == 8
    for prediction in expected:
        found = whole[prediction.id]["utterances"]
        np.testing.assert_allclose(
            probabilities(whole[prediction.id]), prediction.probability, rtol=0, atol=2 * ROUNDING
        )
        contribution = [list(u["contributions"].values()) for u in found]
        np.testing.assert_allclose(
            contribution, prediction.contribution, rtol=0, atol=10 * ROUNDING
        )
        assert [list(u["present"].values()) for u in found] == prediction.present.tolist()
        labels = run.corpus.signature.labels
        assert [u["label"] for u in found] == [labels[i] for i in prediction.label]
        assert [u["predicted"] for u in found] == [
            labels[i] for i in prediction.probability.argmax(-1)
        ]
    assert len(whole) == 12 + 6 + 8


def test_json_lines_say_what_the_corpus_says(tiny_run: TinyRun, tmp_path: Path):
    """The same conversations in the same order are the same batches: nothing may differ."""
    corpus = open_prepared(tiny_run.source)
    conversations = [c for split in ("train", "validation", "test") for c in corpus.split(split)]
    missing = [m for column, m in enumerate(MODALITIES)
               if any(not c.present[:, column].all() for c in conversations)]  # fmt: skip
    assert missing == list(MODALITIES)
    lines = write_lines(tmp_path / "lines.jsonl", conversations, corpus.signature)
    paths = predict_file(tiny_run.folder, lines, tmp_path / "lines")
    assert [path.name for path in paths] == ["predictions.jsonl", "predictions.csv"]
    for one, two in zip(
        paths, predict_file(tiny_run.folder, tiny_run.source, tmp_path / "corpus"), strict=True
    ):
        assert one.read_bytes() == two.read_bytes()


def test_the_table_says_what_the_lines_say(tiny_run: TinyRun, whole, tmp_path: Path):
    paths = predict_file(tiny_run.folder, tiny_run.source, tmp_path)
    with paths[1].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    utterances = [(id, u) for id, content in whole.items() for u in content["utterances"]]
    assert len(rows) == len(utterances) > 100
    for row, (id, said) in zip(rows, utterances, strict=True):
        assert (row["conversation"], row["predicted"]) == (id, said["predicted"])
        assert float(row["confidence"]) == said["confidence"]
        for label, value in said["probabilities"].items():
            assert float(row[f"probability {label}"]) == value


def test_the_corpus_need_not_be_there(tiny_run: TinyRun, whole, tmp_path: Path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run.folder, folder)
    content = json.loads((folder / "run.json").read_text())
    content["corpus"]["path"] = str(tmp_path / "gone")
    (folder / "run.json").write_text(json.dumps(content))
    corpus = open_prepared(tiny_run.source)
    conversation = corpus.split("test")[0]
    lines = write_lines(tmp_path / "lines", [conversation], corpus.signature)
    predict_file(folder, lines, tmp_path)
    np.testing.assert_allclose(
        probabilities(read(tmp_path)[conversation.id]), probabilities(whole[conversation.id]),
        rtol=0, atol=2 * ROUNDING,
    )  # fmt: skip
    with pytest.raises(DataError):
        open_run(folder)


def test_any_number_of_speakers_is_told_apart(tiny_run: TinyRun, tmp_path: Path):
    """The model was trained on three speakers; names mean nothing, who is the same does."""
    signature = open_prepared(tiny_run.source).signature
    assert len(signature.speakers) == 3
    base = random_conversation(1, 14, signature=signature)
    names = tuple(f"guest {i}" for i in range(14))
    many = dataclasses.replace(signature, speakers=names)
    order = np.random.default_rng(0).permutation(14).astype(np.int32)
    speakers = {
        "distinct": np.arange(14, dtype=np.int32),
        "renamed": order,
        "clipped": np.minimum(np.arange(14, dtype=np.int32), 2),
    }
    conversations = [dataclasses.replace(base, id=k, speaker=s) for k, s in speakers.items()]
    predict_file(
        tiny_run.folder, write_lines(tmp_path / "lines", conversations, many), tmp_path / "out"
    )
    found = read(tmp_path / "out")
    said = {name: probabilities(content) for name, content in found.items()}
    np.testing.assert_allclose(said["distinct"], said["renamed"], rtol=0, atol=2 * ROUNDING)
    assert abs(said["distinct"] - said["clipped"]).max() > 1e-4
    for name, speaker in speakers.items():
        assert [u["speaker"] for u in found[name]["utterances"]] == [names[i] for i in speaker]


def test_a_conversation_longer_than_every_bucket(tiny_run: TinyRun, whole, tmp_path: Path):
    """Training would have refused it: data.overlong is "error" and the last bucket 16."""
    corpus = open_prepared(tiny_run.source)
    long = random_conversation(2, 100, signature=corpus.signature)
    short = corpus.split("test")[0]
    predict_file(
        tiny_run.folder, write_lines(tmp_path / "lines", [long, short], corpus.signature), tmp_path
    )
    found = read(tmp_path)
    assert len(found[long.id]["utterances"]) == 100
    np.testing.assert_allclose(
        probabilities(found[short.id]), probabilities(whole[short.id]), rtol=0, atol=2 * ROUNDING
    )


def test_bad_conversations_are_set_aside_and_counted(tiny_run: TinyRun, tmp_path: Path):
    corpus = open_prepared(tiny_run.source)
    good = as_json(corpus.split("test")[0], corpus.signature)
    lines = tmp_path / "lines"
    lines.write_text(f"{good}\nno conversation\n")
    with pytest.raises(DataError, match="line 2: not JSON"):
        predict_file(tiny_run.folder, lines, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.warns(UserWarning, match="bad conversations set aside: 1, listed in"):
        paths = predict_file(tiny_run.folder, lines, tmp_path / "out", skip_bad=True)
    assert [path.name for path in paths][2:] == ["skipped.json"]
    skipped = json.loads(paths[2].read_text())
    assert skipped["count"] == len(skipped["items"]) == 1
    assert "line 2: not JSON" in skipped["items"][0]
    assert read(tmp_path / "out").keys() == {corpus.split("test")[0].id}


def test_a_model_that_embeds_speakers_knows_only_those(authors_run: TinyRun, tmp_path: Path):
    assert embeds_speakers(RedifuAuthorsConfig())
    assert embeds_speakers(RedifuConfig(speaker_embedding=True))
    assert not embeds_speakers(RedifuConfig())
    corpus = open_run(authors_run.folder).corpus
    one = corpus.split("test")[0]
    known = write_lines(tmp_path / "known", [one], corpus.signature)
    predict_file(authors_run.folder, known, tmp_path)
    rows = probabilities(read(tmp_path)[one.id])
    assert rows.shape == (len(one), 6)
    np.testing.assert_allclose(rows.sum(1), 1, atol=6 * ROUNDING)
    unknown = tmp_path / "unknown"
    unknown.write_text(known.read_text().replace('"speaker": "F"', '"speaker": "Ann"'))
    with pytest.raises(DataError, match=r"does not know 'Ann'\. Known are M, F"):
        predict_file(authors_run.folder, unknown, tmp_path)


def test_without_a_trained_run_there_is_nothing(tiny_run: TinyRun, tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no run here"):
        predict_file(tmp_path, tiny_run.source, tmp_path / "out")
    shutil.copy(tiny_run.folder / "run.json", tmp_path)
    with pytest.raises(CheckpointError, match="nothing was trained"):
        predict_file(tmp_path, tiny_run.source, tmp_path / "out")
    for damaged in ("{", "[]", '{"config": {"modle": {}}}', "{}"):
        (tmp_path / "run.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=r"run\.json: cannot be read"):
            predict_file(tmp_path, tiny_run.source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_terminal_sees_progress_and_a_pipe_sees_paths(tiny_run: TinyRun, tmp_path: Path):
    corpus = open_prepared(tiny_run.source)
    conversations = [random_conversation(i, 3, signature=corpus.signature) for i in range(80)]
    lines = write_lines(tmp_path / "lines", conversations, corpus.signature)
    status, seen, piped = on_terminal(
        "predict", tiny_run.folder, lines, "--out", tmp_path, stdout=subprocess.PIPE
    )
    assert status == 0, seen
    assert "Predicting" in seen
    names = [Path(line) for line in piped.splitlines()]
    assert names == [tmp_path / "predictions.jsonl", tmp_path / "predictions.csv"]
    assert len(read(tmp_path)) == 80
