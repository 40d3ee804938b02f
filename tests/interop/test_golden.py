"""The golden checker: what passes, what fails, and what is no golden at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.interop.golden import TOLERANCES, check, main

GOLDENS = Path(__file__).parent.parent / "goldens"
GOLDEN = GOLDENS / "redifu_iemocap_branch.npz"


@pytest.fixture(scope="module")
def arrays():
    with np.load(GOLDEN) as golden:
        return {name: golden[name] for name in golden.files}


def tampered(arrays, path, **changes):
    """A golden with some entries replaced, or left out where the change is None."""
    content = {n: x for n, x in ({**arrays, **changes}).items() if x is not None}
    np.savez(path, **content)
    return path


def test_a_golden_passes_with_exit_code_0(capsys):
    assert main([str(GOLDEN)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["tolerances"] == TOLERANCES
    assert all(0 <= report["errors"][name] <= limit for name, limit in TOLERANCES.items())


CHANGES = {
    "output/logits": ("logits", 2e-5),
    "output/log_prob_visual": ("modality_log_probabilities", 2e-5),
    "output/loss": ("loss", 1e-5),
    "grad/mutual_former.gate_a.gate.0.bias": ("gradients", None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tampered_number_fails_with_exit_code_1(name, arrays, tmp_path, capsys):
    kind, amount = CHANGES[name]
    changed = np.array(arrays[name])
    place = np.unravel_index(0, changed.shape)
    changed[place] += 3e-4 * np.abs(changed).max() if amount is None else amount
    path = tampered(arrays, tmp_path / "x.npz", **{name: changed})
    assert main([str(path)]) == 1
    report = json.loads(capsys.readouterr().out)
    failed = {k for k, limit in TOLERANCES.items() if report["errors"][k] > limit}
    assert failed == {kind}
    assert report["passed"] is False


@pytest.mark.parametrize(
    "name", ["output/loss", "output/log_prob_visual", "grad/v_output_layer.2.bias"]
)
def test_a_nan_never_passes(name, arrays, tmp_path, capsys):
    changed = np.array(arrays[name])
    changed[np.unravel_index(0, changed.shape)] = np.nan
    path = tampered(arrays, tmp_path / "x.npz", **{name: changed})
    assert main([str(path)]) == 1
    text = capsys.readouterr().out
    assert "NaN" not in text
    assert None in json.loads(text)["errors"].values()


def test_a_gradient_where_none_was_published_fails(arrays, tmp_path):
    name = "grad/agate.gate.0.bias"
    path = tampered(arrays, tmp_path / "x.npz", **{name: np.zeros_like(arrays[name])})
    assert check(path)["gradients"] == float("inf")


def test_a_truncated_file_gives_exit_code_2(tmp_path):
    path = tmp_path / "half.npz"
    path.write_bytes(GOLDEN.read_bytes()[: GOLDEN.stat().st_size // 2])
    run = subprocess.run(
        [sys.executable, "-m", "emojax.interop.golden", path], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.startswith(f"error: {path}: cannot be read as a golden")
    assert "Traceback" not in run.stderr


def damaged(kind):
    content = bytearray(GOLDEN.read_bytes())
    if kind == "empty":
        return b""
    if kind == "text":
        return b"not an archive at all"
    # Bytes of the compressed data, the directory at the end left whole.
    for place in range(1000, 200_000, 997):
        content[place] ^= 0xFF
    return bytes(content)


@pytest.mark.parametrize("kind", ["empty", "text", "flipped bytes"])
def test_a_damaged_file_is_one_clear_error(kind, tmp_path, capsys):
    path = tmp_path / "x.npz"
    path.write_bytes(damaged(kind))
    assert main([str(path)]) == 2
    assert "cannot be read as a golden" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere.npz")]) == 2
    assert "nowhere.npz" in capsys.readouterr().err


def test_a_single_array_is_no_golden(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"not an \.npz archive"):
        check(tmp_path / "x.npy")


def test_a_pickled_object_is_not_loaded(tmp_path):
    np.savez(tmp_path / "x.npz", config=np.array([{"branch": "MELD"}], dtype=object))
    with pytest.raises(DataError, match="allow_pickle=False"):
        check(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"config": np.array("[1, 2]")},
        {"config": np.array("not json")},
        {"config": np.array('{"branch": "IEMOCAP"}')},
        {"param/textf_input.weight": None},
        {"grad/textf_input.bias": None},
        {"output/logits": None},
        {"input/mask": None},
        {"input/speaker": np.zeros((3, 5), np.int64)},
        {"param/textf_input.weight": np.zeros((5, 24), np.float32)},
    ],
    ids=lambda changes: str(*changes),
)
def test_a_golden_that_is_not_whole_gives_exit_code_2(changes, arrays, tmp_path, capsys):
    assert main([str(tampered(arrays, tmp_path / "x.npz", **changes))]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'x.npz'}: ")


def test_a_model_that_cannot_be_is_refused(arrays, tmp_path, capsys):
    config = json.loads(str(arrays["config"])) | {"n_head": 7}
    path = tampered(arrays, tmp_path / "x.npz", config=np.array(json.dumps(config)))
    assert main([str(path)]) == 2
    assert "model.width" in capsys.readouterr().err
