"""Counts of raw and prepared corpora agree with counts by hand."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from emojax.data.inspect import inspect, render
from emojax.data.prepare import prepare
from emojax.data.readers import read_corpus
from emojax.errors import DataError
from emojax.types import MODALITIES


def text(summary: dict) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(render(summary))
    return console.file.getvalue()


def test_mosi(shared: Path):
    summary = inspect(shared / "data" / "mosi")
    assert json.loads(json.dumps(summary)) == summary
    train, test = summary["splits"]["train"], summary["splits"]["test"]
    assert (train["conversations"], train["utterances"]) == (62, 1447)
    assert (test["conversations"], test["utterances"]) == (31, 752)
    assert test["lengths"] == {"min": 9, "mean": 752 / 31, "max": 63}
    assert test["labels"] == {"negative": 285, "positive": 467}
    assert summary["widths"] == {"text": 100, "audio": 73, "visual": 100}


def test_meld_text_has_no_audio_and_video(shared: Path):
    summary = inspect(shared / "data" / "meld")
    assert summary["splits"]["validation"]["missing"] == {"text": 0, "audio": 1109, "visual": 1109}
    assert summary["splits"]["test"]["speakers"]["Joey"] == 411
    assert "without audio" in text(summary)


def test_simulated_by_name_counts_what_is_missing():
    summary = inspect("simulated")
    for name, split in read_corpus("simulated").splits.items():
        found = summary["splits"][name]
        present = np.concatenate([each.present for each in split])
        assert found["missing"] == dict(
            zip(MODALITIES, (~present).sum(axis=0).tolist(), strict=True)
        )
        labels = Counter(summary["labels"][int(label)] for each in split for label in each.label)
        assert found["labels"] == labels


def test_a_prepared_folder(write, iemocap_content, tmp_path: Path):
    source = write(iemocap_content)
    corpus = prepare(source, tmp_path / "data")
    summary = inspect(tmp_path / "data")
    assert summary == inspect(corpus) == inspect(corpus.path)
    assert summary["split_rule"] == "official"
    raw = inspect(source)
    assert [s["conversations"] for s in summary["splits"].values()] == [22, 2, 6]
    assert [s["conversations"] for s in raw["splits"].values()] == [24, 6]
    assert summary["splits"]["test"] == raw["splits"]["test"]
    shown = text(summary)
    for word in ("IEMOCAP 9-tuple pickle", "text 5, audio 4, visual 3", "frustrated", "22"):
        assert word in shown


def test_skipped_and_unlabelled(write, iemocap_content):
    iemocap_content[3]["Ses02F_impro02"][0][0] = np.inf
    iemocap_content[2]["Ses05F_impro01"][0] = -1
    summary = inspect(write(iemocap_content))
    assert len(summary["skipped"]) == 1
    assert "Ses02F_impro02" in summary["skipped"][0]
    assert summary["splits"]["test"]["labels"]["(unlabelled)"] == 1
    shown = text(summary)
    assert "set aside: 1" in shown
    assert "(unlabelled)" in shown


def test_markup_in_a_file_is_text(write, iemocap_content):
    key = "Ses02F_[bold red]"
    for field in iemocap_content[:7]:
        field[key] = field["Ses02F_impro02"]
    iemocap_content[3] = iemocap_content[3] | {key: [np.full(5, np.nan)]}
    iemocap_content[7].add(key)
    assert "[bold red]" in text(inspect(write(iemocap_content)))


def test_broken_files(shared: Path, tmp_path: Path):
    for name in ("truncated.pkl", "malicious.pkl"):
        with pytest.raises(DataError, match=name):
            inspect(shared / "fixtures" / name)
    with pytest.raises(DataError, match="no such file"):
        inspect(tmp_path / "missing")
    with pytest.raises(DataError, match="unknown layout"):
        inspect(tmp_path)
