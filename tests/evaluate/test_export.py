"""What was written is read back and compared with the predictions."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import stat

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.evaluate.export import write_predictions
from emojax.files import write_atomically
from emojax.types import MODALITIES
from tests.evaluate.samples import LABELS, SPEAKERS, predict, sample


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_both_files_hold_every_prediction_by_name(tmp_path):
    predictions = sample(5, seed=9)
    jsonl, table = write_predictions(tmp_path, predictions, LABELS, SPEAKERS)
    conversations, rows = read_jsonl(jsonl), iter(read_csv(table))
    for prediction, conversation in zip(predictions, conversations, strict=True):
        assert conversation["conversation"] == prediction.id
        for i, entry in enumerate(conversation["utterances"]):
            row = next(rows)
            label = prediction.label[i]
            assert entry["label"] == (LABELS[label] if label >= 0 else None)
            assert row["label"] == (entry["label"] or "")
            best = prediction.probability[i].argmax()
            assert entry["predicted"] == row["predicted"] == LABELS[best]
            assert entry["speaker"] == row["speaker"] == SPEAKERS[prediction.speaker[i]]
            assert entry["transcript"] == row["transcript"] == prediction.transcript[i]
            assert (row["conversation"], row["utterance"]) == (prediction.id, str(i + 1))
            np.testing.assert_allclose(
                [entry["probabilities"][name] for name in LABELS],
                prediction.probability[i].astype(np.float64),
                atol=5e-7,
            )
            assert entry["confidence"] == entry["probabilities"][entry["predicted"]]
            assert float(row["confidence"]) == entry["confidence"]
            contribution = prediction.contribution[i].astype(np.float64)
            for m, name in enumerate(MODALITIES):
                assert entry["contributions"][name] == pytest.approx(contribution[m], abs=5e-7)
                assert float(row[f"contribution {name}"]) == entry["contributions"][name]
                assert entry["present"][name] == prediction.present[i, m]
            for name in LABELS:
                assert float(row[f"probability {name}"]) == entry["probabilities"][name]
            assert row["modality"] == (entry["modality"] or "")
            if entry["modality"]:
                assert entry["contributions"][entry["modality"]] == max(
                    entry["contributions"][m] for m in MODALITIES if entry["present"][m]
                )
    assert next(rows, None) is None


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "  -2+3"]


def test_spreadsheets_get_text_where_a_formula_lurks_and_json_the_very_words(tmp_path):
    texts = [*FORMULAS, "a=b", "so-so", "", 'say "hi", twice\nagain', "悲しい 🙂", "’tis"]
    prediction = dataclasses.replace(
        predict(np.zeros(len(texts)), np.tile([1.0, 0.0], (len(texts), 1)), "=id"),
        transcript=tuple(texts),
        speaker=np.zeros(len(texts), int),
    )
    jsonl, table = write_predictions(tmp_path, [prediction], ("=neg", "pos"), ("@ann",), "some")
    assert (jsonl.name, table.name) == ("some.jsonl", "some.csv")
    assert [e["transcript"] for e in read_jsonl(jsonl)[0]["utterances"]] == texts
    rows = read_csv(table)
    for row, text in zip(rows, texts, strict=True):
        assert row["transcript"] == (f"'{text}" if text in FORMULAS else text)
        assert (row["conversation"], row["speaker"]) == ("'=id", "'@ann")
        assert row["label"] == row["predicted"] == "'=neg"


def test_a_lone_surrogate_is_kept_by_json_and_spelt_out_by_csv(tmp_path):
    prediction = dataclasses.replace(predict([0], [[1.0]]), transcript=("a\udc80b",))
    jsonl, table = write_predictions(tmp_path, [prediction], ("x",), SPEAKERS)
    assert read_jsonl(jsonl)[0]["utterances"][0]["transcript"] == "a\udc80b"
    assert read_csv(table)[0]["transcript"] == "a\\udc80b"


def test_bad_predictions_write_nothing(tmp_path):
    prediction = dataclasses.replace(predict([0], [[1.0]]), speaker=np.array([7]))
    with pytest.raises(DataError, match="speaker outside"):
        write_predictions(tmp_path, [prediction], ("x",), SPEAKERS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole_or_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    assert write_atomically(path, "first") == path
    inode = path.stat().st_ino
    write_atomically(path, "second")
    assert path.read_text() == "second"
    assert path.stat().st_ino != inode

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="cannot be written: No space left") as error:
        write_atomically(path, "third")
    assert error.value.file == str(path)
    assert path.read_text() == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_predictions(tmp_path / "taken", sample(1), LABELS, SPEAKERS)


def test_files_are_as_readable_as_any_made_here(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    written = write_atomically(tmp_path / "written", b"")
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_weights_are_written_where_a_model_has_them(tmp_path):
    prediction = predict([0, 1], np.full((2, len(LABELS)), 0.25))
    plain = read_jsonl(write_predictions(tmp_path, [prediction], LABELS, SPEAKERS)[0])
    assert "weights" not in plain[0]["utterances"][0]
    weights = np.array([[0.2, 0.8, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    weighed = dataclasses.replace(prediction, weights=weights)
    (found,) = read_jsonl(write_predictions(tmp_path, [weighed], LABELS, SPEAKERS)[0])
    for entry, wanted in zip(found["utterances"], weights, strict=True):
        assert list(entry["weights"]) == list(MODALITIES)
        np.testing.assert_allclose(list(entry["weights"].values()), wanted, atol=5e-7)


def test_contradictions_are_written_where_they_were_measured(tmp_path):
    prediction = dataclasses.replace(
        predict([0, 1], np.full((2, len(LABELS)), 0.25)),
        present=np.array([[True, True, True], [False, True, True]]),
    )
    jsonl, table = write_predictions(tmp_path, [prediction], LABELS, SPEAKERS)
    assert "contradiction" not in read_jsonl(jsonl)[0]["utterances"][0]
    assert [row["contradiction"] for row in read_csv(table)] == ["", ""]
    measured = dataclasses.replace(prediction, contradiction=np.array([1 / 3, np.nan], np.float32))
    jsonl, table = write_predictions(tmp_path, [measured], LABELS, SPEAKERS)
    found = [entry["contradiction"] for entry in read_jsonl(jsonl)[0]["utterances"]]
    assert found == [0.333333, None]
    assert [row["contradiction"] for row in read_csv(table)] == ["0.333333", ""]
