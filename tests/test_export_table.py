"""The table of models by formats says what is there and why the rest is not."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from experiments.export_table import FORMATS, HEADER, export, sheet

CARD = {
    "bytes": 1_250_000, "largest_difference": 3e-7, "utterances_of_latency": 17,
    "validation_weighted_f1": {"jax": 0.8125, "exported": 0.81}, "latency_ms": {"p50": 2, "p95": 3},
}  # fmt: skip


def test_a_row_for_each_model_and_format():
    found = sheet([("redifu", "onnx", CARD), ("sdt", "torch", {"problem": "sdt has no module"})])
    first, second = found.rows
    assert first == ["redifu", "onnx", "1.25", "3e-07", "81.25", "81.00", "2.0", "3.0"]
    assert second[:3] == ["sdt", "torch", "sdt has no module"]
    assert {len(first), len(second)} == {len(HEADER)}


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_not_exported_again(format, tiny_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "card.json").write_text(json.dumps(CARD))
    assert export(tiny_run.folder, format, out, Console(quiet=True)) == CARD


def test_what_cannot_be_is_told(tiny_run, tmp_path):
    (tmp_path / "mine").write_text("")
    found = export(tiny_run.folder, "onnx", tmp_path, Console(quiet=True))
    assert "holds something already" in found["problem"]
