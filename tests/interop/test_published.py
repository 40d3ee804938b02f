"""The authors' checkpoints become files of weights that say what their code says."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import scipy.special

from emojax.errors import ConfigError, DataError
from emojax.interop import golden
from emojax.interop.authors import from_state_dict
from emojax.interop.golden import _batch
from emojax.interop.published import import_checkpoint
from emojax.interop.weights import read
from tests.interop.test_torch_checkpoint import Module, Tensor, save
from tests.tiny_run import emojax


def published(branch):
    """(arrays of the golden, its state dict, its config)."""
    arrays = golden.read(f"tests/goldens/redifu_{branch}_branch.npz")
    state = {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    return arrays, state, json.loads(str(arrays["config"]))


def saved(path, state, *, whole=False):
    """The state dict as `torch.save` writes it, or a module that holds it."""
    storages = {str(i): np.ascontiguousarray(x).ravel() for i, x in enumerate(state.values())}

    def strides(x):
        return tuple(step // x.itemsize for step in np.ascontiguousarray(x).strides)

    tensors = {
        name: Tensor(str(i), "FloatStorage", 0, x.shape, strides(x) if x.ndim else ())
        for i, (name, x) in enumerate(state.items())
    }
    return save(path, Module(tensors) if whole else tensors, storages)


@pytest.mark.parametrize(("branch", "whole"), [("iemocap", True), ("meld", False)])
def test_a_checkpoint_says_what_the_published_code_says(branch, whole, tmp_path):
    arrays, state, known = published(branch)
    path, out = saved(tmp_path / "a.pt", state, whole=whole), tmp_path / "a.safetensors"
    labels = [f"e{i}" for i in range(known["n_classes"])]
    sizes = ("--heads", known["n_head"], "--window", known["window"])
    done = emojax("import-authors", path, "--out", out, "--labels", ",".join(labels), *sizes)
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    weights = read(out)
    assert weights.signature.labels == tuple(labels)
    assert weights.config.branch == branch
    inputs = {k.removeprefix("input/"): v for k, v in arrays.items() if k.startswith("input/")}
    jax.tree.map(np.testing.assert_array_equal, weights.variables["params"], from_state_dict(state))
    if not whole:
        return  # what a model of these weights says is tests/models/test_redifu_authors.py's
    batch = _batch(inputs)
    found = jax.jit(weights.build().apply)(weights.variables, batch)
    mask = np.asarray(batch.segment) > 0
    expected = scipy.special.log_softmax(arrays["output/logits"], -1)[mask]
    ours = scipy.special.log_softmax(np.asarray(found.logits), -1)[mask]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"t_output_layer.2.weight": None}, "'t_output_layer.2.weight': there is no such matrix"),
        ({"gatT.fc.bias": None}, r"'gatT.fc.bias': missing, where \(32,\) is expected"),
        ({"gatT.fc.bias": np.zeros(3, np.float32)}, r"'gatT.fc.bias': \(3,\), where \(32,\)"),
        ({"gatT.fc.bias": np.full(32, np.nan, np.float32)}, "not finite"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_another_model_is_told(change, problem, tmp_path):
    _, state, known = published("iemocap")
    state = {k: v for k, v in (state | change).items() if v is not None}
    path = saved(tmp_path / "a.pt", state)
    with pytest.raises(DataError, match=problem):
        import_checkpoint(path, tmp_path / "a.safetensors", "abcdef", heads=known["n_head"])
    assert not (tmp_path / "a.safetensors").exists()


def test_names_that_do_not_fit_are_told(tmp_path):
    _, state, _ = published("iemocap")
    path, out = saved(tmp_path / "a.pt", state), tmp_path / "a.safetensors"
    for labels, speakers, heads, problem in (
        ("abcde", None, 8, "has 6 emotions"),
        ("abcdea", None, 8, "once each"),
        ("abcdef", ["A"], 8, "has 2 speakers"),
        ("abcdef", None, 5, "multiple of model.heads"),
    ):
        with pytest.raises(ConfigError, match=problem):
            import_checkpoint(path, out, labels, speakers, heads=heads)
