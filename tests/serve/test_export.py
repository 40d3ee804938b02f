"""Exports run where they are meant to, say what JAX says, and are whole or not there."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from emojax.errors import ConfigError, DataError
from emojax.serve import export, formats
from emojax.serve.export import cases, export_run
from emojax.train.run import open_run
from tests.interop.test_weights import weights
from tests.tiny_run import ENVIRONMENT, emojax

EXAMPLES = Path(__file__).parents[2] / "experiments" / "serving_examples"
NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "torch": ("torch",),
    "stablehlo": ("flatbuffers",),
}


def export_once(run, format, out, *options):
    """By the command line; skipped where its runtime is not installed."""
    for package in NEEDS[format]:
        pytest.importorskip(package, reason=f"{package} is not installed")
    return emojax("export", run.folder, "--format", format, "--out", out, *options)


@pytest.fixture(scope="module")
def exported(request, tiny_run, tmp_path_factory):
    """(format, folder, what was printed)."""
    out = tmp_path_factory.mktemp("exported") / "model"
    done = export_once(tiny_run, request.param, out)
    assert done.returncode == 0, done.stderr
    return request.param, out, done.stdout


@pytest.mark.parametrize("exported", NEEDS, indirect=True)
def test_an_export_is_a_folder_that_tells_what_it_is(exported, tiny_run):
    format, out, told = exported
    assert "Largest difference from JAX: " in told
    assert f"Exported: {out}" in told
    card = json.loads((out / "card.json").read_text())
    assert card["largest_difference"] <= 1e-5
    names = list(card["differences"])
    assert {"packed", "side by side", "without text", "without visual"} <= set(names)
    assert card["format"] == format
    scores = card["validation_weighted_f1"]
    assert scores["jax"] == pytest.approx(scores["exported"], abs=1e-9)
    assert 0 < card["latency_ms"]["p50"] <= card["latency_ms"]["p95"]
    readme = (out / "README.md").read_text()
    assert "What it cannot do:" in readme
    assert f"{scores['jax']:.4f} in JAX" in readme
    labels = json.loads((out / "labels.json").read_text())["labels"]
    assert tuple(labels) == open_run(tiny_run.folder).corpus.signature.labels
    with np.load(out / "example.npz") as example:
        assert example["probability"].shape == (*example["text"].shape[:2], len(labels))
    assert not [path for path in out.parent.iterdir() if path != out]


@pytest.mark.parametrize("exported", ["onnx", "torch"], indirect=True)
def test_the_serving_examples_say_the_same(exported, tiny_run):
    format, out, _ = exported
    shown = {}
    for name, path in ((f"with_{format}", out), ("with_emojax", tiny_run.folder)):
        done = subprocess.run(
            [sys.executable, EXAMPLES / f"{name}.py", path, out / "example.npz"],
            env=ENVIRONMENT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        first, *shown[name] = done.stdout.splitlines()
        assert float(first.removeprefix("largest difference ")) < 1e-5
    assert shown["with_emojax"] == shown[f"with_{format}"]


def test_a_quantised_export_is_small_and_near(tiny_run, tmp_path):
    done = export_once(tiny_run, "onnx", tmp_path / "small", "--quantize", "int8")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "small" / "card.json").read_text())
    scores = card["validation_weighted_f1"]
    assert scores["exported"] >= scores["jax"] - 0.01
    assert card["quantize"] == "int8"


def test_cases_are_real_conversations_of_several_kinds(tiny_run):
    run = open_run(tiny_run.folder)
    found = {case.name: case.arrays for case in cases(run)}
    assert found["packed"]["segment"].max() > 1
    assert (found["side by side"]["segment"] == 0).any()
    assert len({each["segment"].shape for each in found.values()}) >= 4
    for i, name in enumerate(("text", "audio", "visual")):
        assert not found[f"without {name}"]["present"][..., i].any()
        assert not found[f"without {name}"][name].any()


def broken(run=None, **changes):
    """A format whose runtime is not what it should be."""

    def write(weights, folder, quantize):
        (folder / "model").write_bytes(b"123")
        made = formats.Exported(folder / "model", run, {}, [], "")
        return dataclasses.replace(made, **changes)

    return write


def classes_of(arrays):
    return (*arrays["segment"].shape, 6)


@pytest.mark.parametrize(
    ("run", "problem"),
    [
        (lambda arrays: np.full(classes_of(arrays), 1 / 6), "is off by"),
        (lambda arrays: np.full(classes_of(arrays), np.nan), "has no probabilities"),
        (lambda arrays: np.zeros((1, 2, 3)), "has no probabilities"),
        (lambda arrays: 1 // 0, None),
    ],
    ids=["off", "nan", "shape", "raises"],
)
def test_a_failed_export_leaves_nothing(tiny_run, tmp_path, monkeypatch, run, problem):
    monkeypatch.setitem(export.FORMATS, "broken", broken(run))
    error = ZeroDivisionError if problem is None else DataError
    with pytest.raises(error, match=problem):
        export_run(tiny_run.folder, "broken", tmp_path / "out", Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_quantised_export_that_lost_too_much_leaves_nothing(tiny_run, tmp_path, monkeypatch):
    wrong = broken(lambda arrays: np.eye(6)[np.zeros(arrays["segment"].shape, int)],
                   quantised=True)  # fmt: skip
    monkeypatch.setitem(export.FORMATS, "broken", wrong)
    with pytest.raises(DataError, match="the weighted F1 falls from"):
        export_run(tiny_run.folder, "broken", tmp_path / "out", Console(quiet=True))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_at_once(tiny_run, tmp_path):
    console = Console(quiet=True)
    with pytest.raises(ConfigError, match="trained looking ahead"):
        export_run(tiny_run.folder, "onnx", tmp_path / "out", console, causal=True)
    with pytest.raises(ConfigError, match="--quantize is for"):
        export_run(tiny_run.folder, "torch", tmp_path / "out", console, quantize="int8")
    with pytest.raises(ConfigError, match="one row at a time"):
        formats.iree(weights("redifu_authors"), tmp_path, None)
    with pytest.raises(ConfigError, match="bc_lstm has no PyTorch module"):
        formats.torch(weights("bc_lstm"), tmp_path, None)
    with pytest.raises(ConfigError, match=r"pip install 'emojax\[all\]'"):
        formats.needs("no.such.package", "all")
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(ConfigError, match="holds something already"):
            export_run(tiny_run.folder, "onnx", out, console)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
