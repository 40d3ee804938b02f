"""The table of models by formats says what is there and why the rest is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from experiments import export_table
from experiments.export_cards import FORMATS, Table, draw, sheets
from experiments.export_table import export

CARD = {
    "bytes": 1_250_000, "largest_difference": 3e-7, "utterances_of_latency": 17,
    "validation_weighted_f1": {"jax": 0.8125, "exported": 0.81}, "latency_ms": {"p50": 2, "p95": 3},
}  # fmt: skip
SMALL = CARD | {"bytes": 312_500}
NO_MODULE = {"problem": "sdt has no module"}


@pytest.fixture
def table(tmp_path):
    """Of two models and seeds."""
    table = Table(tmp_path / "table.json")
    for format, card in (("torch", NO_MODULE), ("onnx", CARD)):
        table.add("sdt", format, 0, "b", card)
    better = CARD | {"validation_weighted_f1": {"jax": 0.7925, "exported": 0.80}}
    for seed, card in enumerate((CARD, better)):
        table.add("redifu", "onnx", seed, f"a{seed}", card)
        table.add("redifu", "int8", seed, f"a{seed}", SMALL | {"format": "onnx"})
    return table


def test_sheets_have_models_by_formats_and_reasons_are_notes(table):
    (size, score, difference, latency), reasons = sheets(table)
    assert size.header == ["model", "onnx", "int8", "torch", "int8 of onnx"]
    assert size.rows == [
        ["redifu", "1.250", "0.312", "", "25.0 %"], ["sdt", "1.250", "", "– (1)", ""]
    ]  # fmt: skip
    assert score.rows[0][1:3] == ["80.2 ± 1.4", "+0.25 ± 0.71"]
    assert score.rows[1] == ["sdt", "81.2", "-0.25", "", "– (1)"]
    assert difference.rows[0][1] == "3e-07"
    assert latency.rows[0][1] == "2.0, 3.0"
    assert reasons == ["It has no module"]


def test_what_is_kept_is_drawn_again_and_not_exported_again(table, tmp_path):
    draw(table, tmp_path / "out")
    written = (tmp_path / "out" / "table.md").read_text()
    assert "| redifu | 80.2 ± 1.4 | +0.25 ± 0.71 |" in written
    assert "(17 utterances)" in written
    assert written.endswith("1. It has no module.\n")
    assert (tmp_path / "out" / "exports.png").read_bytes().startswith(b"\x89PNG")
    again = Table(table.path)
    assert again.cards == table.cards
    assert [card["format"] for card in again.of("redifu", "int8")] == ["int8", "int8"]
    assert again.has("redifu", "onnx", 1, "a1")
    # With other settings it is another run; what could not be may be possible now.
    assert not again.has("redifu", "onnx", 1, "a2")
    assert not again.has("sdt", "torch", 0, "b")
    draw(again, tmp_path / "again")
    assert (tmp_path / "again" / "table.md").read_text() == written


@pytest.mark.parametrize("format", FORMATS)
def test_a_folder_that_is_there_is_not_exported_again(format, tiny_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "card.json").write_text(json.dumps(CARD))
    assert export(tiny_run.folder, format, out, Console(quiet=True)) == CARD


def test_what_cannot_be_is_told(tiny_run, tmp_path):
    (tmp_path / "mine").write_text("")
    found = export(tiny_run.folder, "onnx", tmp_path, Console(quiet=True))
    assert "holds something already" in found["problem"]


def test_latencies_are_measured_again(table, tmp_path, monkeypatch):
    folder = tmp_path / "exports" / "a1" / "onnx"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    np.savez(folder / "example.npz", text=np.zeros((1, 2, 3)), probability=np.zeros((1, 2, 4)))
    told = []
    monkeypatch.setattr(
        export_table, "reopen", lambda *what: told.append(what) or (lambda arrays: arrays["text"])
    )
    export_table.retime(table, tmp_path)
    assert told == [("onnx", folder)]
    before, after = (card["latency_ms"] for card in table.of("redifu", "onnx"))
    assert before == CARD["latency_ms"]
    assert 0 < after["p50"] < 1
