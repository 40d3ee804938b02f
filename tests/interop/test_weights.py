"""A file of weights holds everything that a model is made of, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from emojax.config import MODELS, RedifuAuthorsConfig
from emojax.errors import DataError
from emojax.interop import golden
from emojax.interop.authors import from_state_dict, state_shapes, to_state_dict
from emojax.interop.weights import Weights, read, shapes, write
from emojax.types import Signature
from tests.batches import SIGNATURE, pack, random_conversation, random_variables

SMALL = {"width": 16, "heads": 2}
CONVERSATION = random_conversation(0, 5)


def config_of(name: str):
    kind = MODELS[name]
    fields = {field.name for field in dataclasses.fields(kind)}
    return kind(**{key: value for key, value in SMALL.items() if key in fields})


@functools.cache
def weights(name: str) -> Weights:
    """Nobody may change them."""
    made = Weights(config_of(name), SIGNATURE, {}, None, {"by": "a test"})
    module = made.build()
    return dataclasses.replace(made, variables=random_variables(module, pack([[CONVERSATION]], 5)))


@pytest.mark.parametrize("name", MODELS)
def test_every_model_comes_back_to_the_bit(name, tmp_path):
    ours = weights(name)
    path = write(tmp_path / "model.safetensors", ours)
    found = read(path)
    assert (found.config, found.signature) == (ours.config, ours.signature)
    assert (found.text_encoder, found.origin) == (None, {"by": "a test"})
    assert jax.tree.structure(found.variables) == jax.tree.structure(ours.variables)
    jax.tree.map(np.testing.assert_array_equal, found.variables, ours.variables)


def test_the_metadata_says_it_all_to_whoever_has_no_emojax(tmp_path):
    path = write(tmp_path / "model.safetensors", weights("redifu"))
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        assert file.get_tensor("params.head.kernel").shape == (3 * 16, 4)
    signature = json.loads(metadata["signature"])
    assert signature["labels"] == list(SIGNATURE.labels)
    assert signature["widths"] == list(SIGNATURE.widths)
    assert json.loads(metadata["config"])["name"] == "redifu"


@pytest.mark.parametrize("branch", ["iemocap", "meld"])
def test_the_published_state_dict_is_whole(branch):
    arrays = golden.read(f"tests/goldens/redifu_{branch}_branch.npz")
    theirs = {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    known = json.loads(str(arrays["config"]))
    config = RedifuAuthorsConfig(
        branch=branch, width=known["hidden_dim"], heads=known["n_head"], window=known["window"]
    )
    signature = Signature(
        "golden", tuple("abcdefg"[: known["n_classes"]]),
        tuple(map(str, range(known["n_speakers"]))),
        (known["d_text"], known["d_audio"], known["d_visual"]),
    )  # fmt: skip
    assert state_shapes(config, signature) == {name: x.shape for name, x in theirs.items()}
    ours = to_state_dict(from_state_dict(theirs), config, signature)
    unread = ("modality_scales", "inv_freq", "pos_emb.pe")
    for name, value in theirs.items():
        if name.endswith("modality_scales"):  # never read, and so not kept
            continue
        tolerance = 2e-5 if name.endswith(unread) else 0.0
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=tolerance, err_msg=name)


def changed(path, tensors=None, metadata=None):
    """The same file with other content."""
    with safe_open(path, framework="numpy") as file:
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        told = file.metadata()
    known |= tensors or {}
    told |= metadata or {}
    save_file(
        {k: v for k, v in known.items() if v is not None}, path,
        {k: v for k, v in told.items() if v is not None},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tensors", "metadata", "problem"),
    [
        ({}, {"format": "pt"}, "format is 'pt', not 'emojax 1'"),
        ({}, {"config": None}, "describes no model"),
        ({}, {"config": "[]"}, "describes no model"),
        ({}, {"config": '{"name": "redifu", "width": -3}'}, "describes no model.*width"),
        ({}, {"config": '{"name": "redifu", "graph_layers": 2000000}'}, "beyond 1000"),
        ({}, {"config": '{"name": "redifu", "width": 1099511627776}'}, "beyond"),
        ({}, {"config": "[" * 100_000}, "describes no model"),
        ({}, {"signature": '{"name": "a", "labels": ["x"], "speakers": [], "widths": [1, 1, 1]}'},
         "two are needed"),
        ({}, {"signature": '{"name": "a", "labels": ["x", 2], "speakers": [], "widths": []}'},
         "names must be texts"),
        ({"params.head.bias": None}, {}, r"'params.head.bias': the tensor is missing"),
        ({"params.head.bias": np.zeros(3, np.float32)}, {}, r"head.bias'.*shape \(3,\).*\(4,\)"),
        ({"params.head.bias": np.zeros(4, np.int8)}, {}, r"head.bias'.*int8"),
        ({"params.head.bias": np.full(4, np.nan, np.float32)}, {}, r"head.bias'.*finite"),
        ({"params.other": np.zeros(3, np.float32)}, {}, r"'params.other': the model has no such"),
        ({"statistics.text_standardise.deviation": np.zeros(7, np.float32)}, {}, "positive"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_what_is_no_model_is_told(tensors, metadata, problem, tmp_path):
    path = write(tmp_path / "model.safetensors", weights("redifu"))
    changed(path, tensors, metadata)
    with pytest.raises(DataError, match=problem) as error:
        read(path)
    assert error.value.file == str(path)


def test_damage_is_told(tmp_path):
    path = write(tmp_path / "model.safetensors", weights("single"))
    content = path.read_bytes()
    for damaged in (content[:-5], content[:40], b"", b"\xff" * 100, b"PK\x03\x04" + content):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="no safetensors file, or damaged"):
            read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "none.safetensors")


def test_shapes_are_those_of_the_tensors(tmp_path):
    ours = weights("redifu_authors")
    with safe_open(write(tmp_path / "a.safetensors", ours), framework="numpy") as file:
        found = {name: file.get_tensor(name).shape for name in file.keys()}  # noqa: SIM118
    assert found == shapes(ours.config, ours.signature)
