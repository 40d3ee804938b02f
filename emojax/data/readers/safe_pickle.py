"""Reads pickles from strangers: containers, numbers, strings and numpy arrays, nothing else.

A pickle is a program for a small stack machine. Two passes keep it from running anything: first
every opcode is looked at without executing any (`pickle_scan`); then the real unpickler meets
stand-ins in place of numpy's own functions. They take only what numpy itself writes, and check an
array's shape against its bytes before there is an array.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emojax.data.readers.pickle_scan import damaged, refuse, scan
from emojax.errors import DataError

MAX_DIMENSIONS = 8
MAX_ELEMENTS = 2**40

_DTYPE = re.compile(r"[<>|=]?(?:[?bBhHiIlLqQefdgFDGO]|[biufcO][0-9]{1,2}|[SU][0-9]{1,6})")


def load(path: Path) -> Any:
    """The plain content of a pickle of any protocol, byte strings of Python 2 read as latin1.

    Raises:
      DataError: it cannot be read, is empty, not a pickle, truncated or damaged, or names a
        global other than the few that numpy arrays and sets are made of. Nothing of it has run.
    """
    try:
        with path.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                raise DataError("the file is empty", file=path, fix="Fetch or copy it again")
            # A map hands out what is there, however much a hostile length asks for.
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                scan(mapped, set(_ALLOWED), path)
            return _read(stream, path)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _read(stream: BinaryIO, path: Path) -> Any:
    try:
        return _Unpickler(stream, path).load()
    except DataError:
        raise
    except Exception as error:  # a hostile pickle chooses what it raises
        raise damaged(path, error) from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: BinaryIO, path: Path):
        super().__init__(stream, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except (KeyError, TypeError):
            refuse(f"{module}.{name}", self._path)


class _DType:
    """What stands for a `numpy.dtype` until its byte order is known."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype

    def __setstate__(self, state: Any) -> None:
        _version, order, subarray, names, fields, *_ = state
        if order not in ("<", ">", "|", "="):
            raise ValueError("unknown byte order of an array")
        if subarray is not None or names is not None or fields is not None:
            raise ValueError("structured arrays are not features")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(np.ndarray):
    """An array that checks its state before numpy takes it."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, raw = state
        if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
            raise ValueError("an array of an impossible shape")
        if not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array of an impossible shape")
        if type(dtype) is not _DType or type(fortran) not in (bool, int):
            raise ValueError("an array of an unknown type")
        plain = dtype.dtype
        if plain.hasobject:
            if type(raw) is not list or not all(isinstance(item, _PLAIN) for item in raw):
                raise ValueError("an array of objects that are not plain")
            held = len(raw)
        else:
            if isinstance(raw, str):
                raw = raw.encode("latin1")
            if type(raw) is not bytes:
                raise ValueError("an array without its bytes")
            held = len(raw)
        itemsize = 1 if plain.hasobject else plain.itemsize
        if itemsize == 0 or math.prod(shape) * itemsize != held:
            raise ValueError(f"an array of shape {shape} that holds {held} bytes")
        if math.prod(n for n in shape if n) > MAX_ELEMENTS:
            raise ValueError("an array of an impossible shape")
        super().__setstate__((1, shape, plain, bool(fortran), raw))  # type: ignore[arg-type]


_NUMBERS = (type(None), bool, int, float, complex, np.generic)
_PLAIN = (*_NUMBERS, str, bytes, list, tuple, dict, set, frozenset, np.ndarray)


class _Function:
    """A function that a pickle may call and cannot alter: it has no attributes to set."""

    __slots__ = ()


class _NDArray(_Function):
    """The name `numpy.ndarray`, which is only ever an argument."""

    __slots__ = ()


class _Reconstruct(_Function):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> np.ndarray:
        if type(kind) is not _NDArray or shape != (0,) or code not in (b"b", "b"):
            raise ValueError("an array begun in a way numpy never writes")
        return np.ndarray.__new__(_Array, (0,), "b")


class _MakeDType(_Function):
    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = True) -> _DType:
        code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError(f"an array of type {str(code)[:20]!r}")
        return _DType(np.dtype("O" if "O" in code else code))


class _Scalar(_Function):
    __slots__ = ()

    def __call__(self, dtype: Any, raw: Any = None) -> Any:
        if type(dtype) is not _DType or dtype.dtype.hasobject:
            raise ValueError("a number of an unknown type")
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if type(raw) is not bytes or len(raw) != dtype.dtype.itemsize:
            raise ValueError("a number without its bytes")
        return np.frombuffer(raw, dtype.dtype)[0]


class _Encode(_Function):
    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise ValueError("a byte string in a way pickle never writes")
        return text.encode("latin1")


class _MakeSet(_Function):
    __slots__ = ()

    def __call__(self, items: Any = ()) -> set:
        if type(items) is not list:
            raise ValueError("a set in a way pickle never writes")
        return set(items)


class _MakeFrozenSet(_Function):
    __slots__ = ()

    def __call__(self, items: Any = ()) -> frozenset:
        if type(items) is not list:
            raise ValueError("a set in a way pickle never writes")
        return frozenset(items)


class _EmptyBytes(_Function):
    """`bytes()`, as protocols before 3 write the content of an array without elements."""

    __slots__ = ()

    def __call__(self) -> bytes:
        return b""


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NDArray(),
    ("numpy", "dtype"): _MakeDType(),
    ("_codecs", "encode"): _Encode(),
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy.core.multiarray", "scalar"): _Scalar(),
    ("numpy._core.multiarray", "scalar"): _Scalar(),
    ("__builtin__", "bytes"): _EmptyBytes(),
    ("__builtin__", "set"): _MakeSet(),
    ("builtins", "set"): _MakeSet(),
    ("__builtin__", "frozenset"): _MakeFrozenSet(),
    ("builtins", "frozenset"): _MakeFrozenSet(),
}
