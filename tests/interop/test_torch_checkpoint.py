"""Checkpoints of PyTorch give their tensors, and nothing that is in them ever runs."""

from __future__ import annotations

import collections
import contextlib
import io
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.interop.torch_checkpoint import read_torch_checkpoint


class Tensor:
    """A tensor as `torch.save` writes one, without PyTorch."""

    def __init__(self, storage: str, kind: str, offset: int, size: tuple, stride: tuple):
        self.storage, self.kind = storage, kind
        self.arguments = (offset, size, stride, False, collections.OrderedDict())


class Storage:
    def __init__(self, kind, key: str):
        self.kind, self.key = kind, key


class Module:
    """Of a class that only its author has."""

    def __init__(self, parameters=None, buffers=None, modules=None, unsaved=()):
        self._parameters = collections.OrderedDict(parameters or {})
        self._buffers = collections.OrderedDict(buffers or {})
        self._modules = collections.OrderedDict(modules or {})
        self._non_persistent_buffers_set = set(unsaved)
        self.training = True


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


@contextlib.contextmanager
def torch_names():
    """What PyTorch's pickles name, there while one is written."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2():
        pass

    def _rebuild_parameter():
        pass

    for each in (_rebuild_tensor_v2, _rebuild_parameter):
        each.__module__, each.__qualname__ = "torch._utils", each.__name__
        setattr(utils, each.__name__, each)
    for name in ("FloatStorage", "HalfStorage", "LongStorage"):
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    torch._utils = utils
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        yield torch, utils
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def save(path, content, storages, *, compressed=False, byteorder=b"little"):
    """As `torch.save` does; `storages` by key."""
    with torch_names() as (torch, utils):

        class Pickler(pickle.Pickler):
            def persistent_id(self, item):
                if isinstance(item, Storage):
                    return "storage", item.kind, item.key, "cpu", len(storages[item.key])
                return None

            def reducer_override(self, item):
                if isinstance(item, Tensor):
                    storage = Storage(getattr(torch, item.kind), item.storage)
                    return utils._rebuild_tensor_v2, (storage, *item.arguments)
                return NotImplemented

        stream = io.BytesIO()
        Pickler(stream, protocol=2).dump(content)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", byteorder)
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


DATA = {"0": np.arange(12, dtype=np.float32), "1": np.arange(4, dtype=np.float16)}
MATRIX = Tensor("0", "FloatStorage", 0, (3, 4), (4, 1))
TURNED = Tensor("0", "FloatStorage", 2, (4, 2), (1, 4))
HALF = Tensor("1", "HalfStorage", 1, (3,), (1,))
SCALAR = Tensor("0", "FloatStorage", 5, (), ())


def test_a_state_dict(tmp_path):
    content = collections.OrderedDict(a=MATRIX, b=TURNED, c=HALF, d=SCALAR)
    content._metadata = collections.OrderedDict()
    found = read_torch_checkpoint(save(tmp_path / "a.pt", content, DATA))
    assert list(found) == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(found["a"], DATA["0"].reshape(3, 4))
    np.testing.assert_array_equal(found["b"], [[2, 6], [3, 7], [4, 8], [5, 9]])
    np.testing.assert_array_equal(found["c"], DATA["1"][1:])
    assert found["c"].dtype == np.float16
    assert found["d"] == 5


def test_one_inside_of_notes_and_one_of_data_parallel(tmp_path):
    content = {"epoch": 3, "optimizer": {"state": {}}, "model": {"module.a": MATRIX}}
    found = read_torch_checkpoint(save(tmp_path / "a.pt", content, DATA))
    assert list(found) == ["a"]


def test_a_whole_module_gives_what_its_state_dict_would(tmp_path):
    inner = Module({"weight": MATRIX, "bias": None}, {"table": HALF, "cache": SCALAR},
                   unsaved=["cache"])  # fmt: skip
    content = Module(modules={"layer": Module(modules={"0": inner}), "off": None})
    found = read_torch_checkpoint(save(tmp_path / "a.pt", content, DATA))
    assert list(found) == ["layer.0.weight", "layer.0.table"]


@pytest.mark.parametrize("where", ["value", "module", "key"])
def test_nothing_runs(tmp_path, where):
    content = {
        "value": {"a": MATRIX, "b": Evil()},
        "module": Module({"weight": MATRIX, "other": Evil()}),
        "key": {"state": {"a": MATRIX}, "b": [Evil()]},
    }[where]
    found = read_torch_checkpoint(save(tmp_path / "a.pt", content, DATA))
    assert list(found) == (["weight"] if where == "module" else ["a"])


@pytest.mark.parametrize(
    ("tensor", "problem"),
    [
        (Tensor("0", "FloatStorage", 0, (4, 4), (4, 1)), "beyond its storage"),
        (Tensor("0", "FloatStorage", 9, (2, 2), (2, 1)), "beyond its storage"),
        (Tensor("0", "FloatStorage", 0, (1 << 40,), (0,)), "beyond its storage"),
        (Tensor("0", "FloatStorage", -1, (2,), (1,)), "impossible shape"),
        (Tensor("0", "FloatStorage", 0, (2,), (-1,)), "impossible shape"),
        (Tensor("0", "FloatStorage", 0, (2, 2), (1,)), "impossible shape"),
        (Tensor("1", "LongStorage", 0, (3,), (1,)), "beyond its storage"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_stay_within_their_storage(tmp_path, tensor, problem):
    with pytest.raises(DataError, match=problem):
        read_torch_checkpoint(save(tmp_path / "a.pt", {"a": tensor}, DATA))


def test_what_is_no_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.pt"
    good = save(path, {"a": MATRIX}, DATA).read_bytes()
    for content in (b"", b"nothing", pickle.dumps({"a": 1}), good[: len(good) // 2]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"no checkpoint of .*, or of one before"):
            read_torch_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(DataError, match=r"no data\.pkl"):
        read_torch_checkpoint(path)
    with pytest.raises(DataError, match="is compressed"):
        read_torch_checkpoint(save(path, {"a": MATRIX}, DATA, compressed=True))
    with pytest.raises(DataError, match="big-endian"):
        read_torch_checkpoint(save(path, {"a": MATRIX}, DATA, byteorder=b"big"))
    with pytest.raises(DataError, match="no tensors by name"):
        read_torch_checkpoint(save(path, {"epoch": 3, "a": [MATRIX]}, DATA))
    with pytest.raises(DataError, match="is damaged"):
        read_torch_checkpoint(save(path, {"a": MATRIX}, {"1": DATA["1"], "0": DATA["0"][:5]}))
    with pytest.raises(DataError, match="cannot be read"):
        read_torch_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("whole", [False, True])
def test_files_of_pytorch_itself(tmp_path, whole):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.LSTM(2, 2)
    ).half()
    module.register_buffer("passing", torch.ones(2), persistent=False)
    path = tmp_path / "a.pt"
    torch.save(module if whole else module.state_dict(), path)
    found = read_torch_checkpoint(path)
    expected = {name: value.numpy() for name, value in module.state_dict().items()}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
