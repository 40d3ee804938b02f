"""The benchmark of encoders: its rows, with small sizes, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from experiments.bench import encoders, encoders_text


@pytest.fixture
def small(monkeypatch):
    sizes = {"vocabulary": 30522, "width": 8, "layers": 3, "heads": 2, "feed_forward": 8}
    monkeypatch.setattr(encoders_text, "SIZES", encoders_text.SIZES | sizes)
    monkeypatch.setattr(encoders_text, "UTTERANCES", 8)


def test_without_a_library_its_rows_are_left_out(small, monkeypatch, capsys):
    def missing():
        raise ImportError(name="transformers")

    for name in ("_torch_features", "_torch_step"):
        monkeypatch.setattr(encoders_text, name, missing)
    rows = encoders_text.measure(1)
    assert [row["what"] for row in rows] == ["features of utterances", "a step of fine-tuning"]
    assert {row["contender"] for row in rows} == {"emojax"}
    assert [row["rate"] * row["seconds"] for row in rows] == pytest.approx([8, 32])
    assert capsys.readouterr().out.count("transformers is not installed") == 2
    console = Console(width=120)
    with console.capture() as shown:
        console.print(encoders.show(rows))
    assert shown.get().count("1.00") == 2


def test_lengths_are_those_of_melds_utterances():
    found = encoders_text.lengths()
    assert np.median(found) == pytest.approx(11, abs=1)
    assert found.mean() == pytest.approx(13, abs=1)
