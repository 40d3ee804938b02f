"""Tensors of a PyTorch checkpoint from a stranger, without PyTorch and without running any of it.

`torch.save` writes a zip archive: a pickle, and a file of bytes for each storage. A state dict's
pickle names a handful of functions; that of a whole module names the classes of its author, whose
code a plain unpickler would run. Here nothing that a pickle names is ever imported. What rebuilds
tensors has a stand-in that checks what it is given, and everything else is an inert object that
only remembers what it was told, in which the tensors of a module are then found.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from emojax.errors import DataError

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip
_DEEPEST = 64
"""Modules inside modules."""
_MOST_OBJECTS = 1 << 20
"""What a pickle of tensors may make; one of a model makes thousands."""
_PICKLE_BYTES = 64 << 20
_AGAIN = "Save it again, as torch.save(model.state_dict(), FILE)"


def read_torch_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Tensors by their names: of a state dict, of a mapping that holds one, or of a whole module.

    Raises:
      DataError: it cannot be read, is no archive of `torch.save`, is damaged, or holds no tensors.
        Nothing of it has run.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = _Archive(archive, path).load()
    except DataError:
        raise
    except zipfile.BadZipFile as error:
        raise DataError(
            "is no checkpoint of torch.save, or of one before PyTorch 1.6", file=path, fix=_AGAIN
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path) from error
    except Exception as error:  # a hostile pickle chooses what it raises
        raise DataError(
            f"is damaged, or no checkpoint of torch.save: {type(error).__name__}: {error}",
            file=path, fix=_AGAIN,
        ) from error  # fmt: skip
    found = _state(content)
    if not found:
        raise DataError("holds no tensors by name", file=path, fix=_AGAIN)
    return found


class _Inert:
    """What stands for an object of somebody's class: it keeps what it is given and does nothing."""

    __slots__ = ("items", "state")

    def __init__(self, *arguments: Any, **named: Any):
        self.state: Any = None
        self.items: list[Any] = []

    def __call__(self, *arguments: Any, **named: Any) -> _Inert:
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        self.items.append(item)

    def extend(self, items: Any) -> None:
        self.items.extend(items)

    def add(self, item: Any) -> None:
        self.items.append(item)


class _Dict(dict):
    """What stands for an `OrderedDict`."""

    def __setstate__(self, state: Any) -> None:
        """PyTorch's notes on versions."""


class _Set(set):
    """What stands for a `set`."""


class _Storage:
    """The name of a type of storage."""

    def __init__(self, name: str):
        self.dtype = np.dtype(_DTYPES[name])


class _Archive:
    """An open archive and the pickle in it."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self.archive, self.path = archive, path
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise DataError("is no checkpoint of torch.save (no data.pkl)", file=path, fix=_AGAIN)
        self.root = pickles[0].removesuffix("data.pkl")
        order = f"{self.root}byteorder"
        if order in names and self._bytes(order) != b"little":
            raise DataError("its numbers are big-endian", file=path, fix=_AGAIN)
        self.storages: dict[str, np.ndarray] = {}

    def _bytes(self, name: str) -> bytes:
        info = self.archive.getinfo(name)
        # Packed entries could claim to become anything; torch.save packs none.
        if info.compress_type != zipfile.ZIP_STORED:
            raise DataError(f"entry {name!r} is compressed", file=self.path, fix=_AGAIN)
        return self.archive.read(info)

    def load(self) -> Any:
        content = self._bytes(f"{self.root}data.pkl")
        if len(content) > _PICKLE_BYTES:
            raise DataError("its pickle is too large for names alone", file=self.path, fix=_AGAIN)
        return _Unpickler(io.BytesIO(content), self).load()

    def storage(self, kind: Any, key: Any) -> np.ndarray:
        if type(kind) is not _Storage or type(key) is not str:
            raise ValueError("a storage of an unknown type")
        if key not in self.storages:
            raw = self._bytes(f"{self.root}data/{key}")
            self.storages[key] = np.frombuffer(raw, kind.dtype)
        if self.storages[key].dtype != kind.dtype:
            raise ValueError("a storage of two types")
        return self.storages[key]


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, archive: _Archive):
        super().__init__(stream, encoding="utf-8")
        self._archive, self._made = archive, 0

    def find_class(self, module: str, name: str) -> Any:
        self._made += 1
        if self._made > _MOST_OBJECTS:
            raise ValueError("too many objects")
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _Storage(name)
        return _KNOWN.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> np.ndarray:
        if type(pid) is not tuple or len(pid) != 5 or pid[0] != "storage":
            raise ValueError("a storage named in a way torch.save never does")
        return self._archive.storage(pid[1], pid[2])


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`, within the storage's bounds."""
    whole = all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    if type(storage) is not np.ndarray or not whole or len(size) != len(stride) or len(size) > 8:
        raise ValueError("a tensor of an impossible shape")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    # A stride of 0 would make as many elements as one likes from one.
    if count > storage.size or (count and last >= storage.size):
        raise ValueError(f"a tensor of shape {tuple(size)} beyond its storage")
    if not count:
        return np.zeros(size, storage.dtype)
    steps = [n * storage.itemsize for n in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False).copy()


def _parameter(data: Any, *rest: Any) -> Any:
    return data


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _Dict,
    ("__builtin__", "set"): _Set,
    ("builtins", "set"): _Set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


def _state(content: Any) -> dict[str, np.ndarray]:
    """The tensors of a state dict, of the first mapping in it that is one, or of a module."""
    if isinstance(content, _Inert):
        return dict(_of_module(content, "", 0))
    if not isinstance(content, dict):
        return {}
    named = {k: v for k, v in content.items() if isinstance(k, str)}
    tensors = {k: v for k, v in named.items() if isinstance(v, np.ndarray)}
    if tensors:
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    for value in named.values():
        if isinstance(value, dict | _Inert) and (found := _state(value)):
            return found
    return {}


def _of_module(module: _Inert, prefix: str, depth: int) -> Iterator[tuple[str, np.ndarray]]:
    """What `Module.state_dict` would list."""
    attributes = module.state
    if depth > _DEEPEST or not isinstance(attributes, Mapping):
        return
    hidden = attributes.get("_non_persistent_buffers_set")
    unsaved = hidden if isinstance(hidden, set | frozenset) else set()
    for kind in ("_parameters", "_buffers"):
        held = attributes.get(kind)
        for name, value in held.items() if isinstance(held, dict) else ():
            if isinstance(value, np.ndarray) and not (kind == "_buffers" and name in unsaved):
                yield f"{prefix}{name}", value
    inner = attributes.get("_modules")
    for name, value in inner.items() if isinstance(inner, dict) else ():
        if isinstance(value, _Inert):
            yield from _of_module(value, f"{prefix}{name}.", depth + 1)
