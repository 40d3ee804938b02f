"""Looks at every opcode of a pickle without executing any.

Refused are opcodes that call what a container of arrays never needs (persistent ids, extension
codes, `INST`, `NEWOBJ`, ...), globals outside the allowed few, and what would bring the real
unpickler down: memo indices out of all proportion, which it would allocate, and tuples nested so
deep that hashing one overflows the interpreter's stack.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from emojax.errors import DataError

MAX_TUPLE_DEPTH = 64

_REFUSED = {
    "INST": "calls a class",
    "OBJ": "calls a class",
    "NEWOBJ": "calls a class",
    "NEWOBJ_EX": "calls a class",
    "PERSID": "asks for an object outside the file",
    "BINPERSID": "asks for an object outside the file",
    "EXT1": "calls a registered extension",
    "EXT2": "calls a registered extension",
    "EXT4": "calls a registered extension",
    "NEXT_BUFFER": "asks for a buffer outside the file",
    "READONLY_BUFFER": "asks for a buffer outside the file",
}
_DO_NOT_TRUST = "Nothing of it was run. Do not trust this file"
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def scan(mapped: mmap.mmap, allowed: Collection[tuple[str, str]], path: Path) -> None:
    """Raises `DataError` for a pickle that is truncated, damaged or not plain."""
    operations = pickletools.genops(mapped)  # type: ignore[arg-type]
    depths = _TupleDepths()
    argument: Any
    for count in range(len(mapped) + 1):
        try:
            operation, argument, position = next(operations)
            deepest = depths.execute(operation, argument)
        except StopIteration:
            return
        except Exception as error:  # whatever a parser of hostile bytes may raise
            raise _unreadable(mapped, path, error, started=count > 0) from error
        name = operation.name
        if name == "GLOBAL":
            module, _, attribute = argument.partition(" ")
            if (module, attribute) not in allowed:
                refuse(f"{module}.{attribute}", path)
        elif name == "INST":
            refuse(argument.replace(" ", "."), path)
        elif name in _REFUSED:
            problem = f"opcode {name} at byte {position} {_REFUSED[name]}"
            raise DataError(f"refused: {problem}", file=path, fix=_DO_NOT_TRUST)
        elif name in _PUT and argument > count:
            problem = f"memo index {argument} after {count} operations would fill the memory"
            raise DataError(f"refused: {problem}", file=path, fix=_DO_NOT_TRUST)
        elif deepest > MAX_TUPLE_DEPTH:
            problem = f"tuples nested deeper than {MAX_TUPLE_DEPTH}"
            raise DataError(f"refused: {problem}", file=path, fix=_DO_NOT_TRUST)


def refuse(name: str, path: Path) -> NoReturn:
    """Raises the error for a global that is not allowed."""
    raise DataError(
        f"refused: the pickle names the global {name!r}",
        file=path,
        fix="Nothing of it was run. Feature files hold containers, numbers, strings and numpy "
        "arrays (saved with pickle protocol 4 or lower) only",
    )


def damaged(path: Path, cause: Exception) -> DataError:
    """The error for a pickle that cannot be followed to its end."""
    detail = f" ({cause})" if isinstance(cause, pickle.UnpicklingError | ValueError) else ""
    return DataError(f"the pickle is damaged{detail}", file=path, fix="Fetch or copy it again")


def _unreadable(mapped: mmap.mmap, path: Path, cause: Exception, *, started: bool) -> DataError:
    if not started:
        fix = "Give a feature pickle, or a folder of CSV files"
        return DataError("not a pickle", file=path, fix=fix)
    if mapped.tell() >= len(mapped):
        problem = f"it ends in the middle, after {len(mapped)} bytes: it is truncated"
        return DataError(problem, file=path, fix="Fetch or copy it again")
    return damaged(path, cause)


class _TupleDepths:
    """The unpickler's stack and memo with the nesting depth of tuples in place of values.

    Only tuples matter: they cannot change once made, so depths stay true, and they alone are
    hashed by descending into them (a frozen set remembers the hashes of its items).
    """

    def __init__(self) -> None:
        self._stack: list[int | None] = []  # None is a mark
        self._memo: dict[int, int] = {}

    def execute(self, operation: pickletools.OpcodeInfo, argument: Any) -> int:
        """Follows one operation; the depth of what it leaves on top of the stack."""
        name, stack = operation.name, self._stack
        if name == "MARK":
            stack.append(None)
            return 0
        if name in _PUT or name == "MEMOIZE":
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1] or 0
            return 0
        if name in _GET:
            stack.append(self._memo.get(argument, 0))
            return 0
        if name == "DUP":
            stack.append(stack[-1])
            return 0
        if name == "POP":  # its description pops a value, yet it may also meet a mark
            stack.pop()
            return 0
        taken = self._take(operation)
        depth = 1 + max(taken, default=0) if name in _TUPLES else 0
        stack.extend([depth] * len(operation.stack_after))
        return depth

    def _take(self, operation: pickletools.OpcodeInfo) -> list[int]:
        stack, before = self._stack, list(operation.stack_before)
        taken: list[int] = []
        if pickletools.markobject in before:
            while (depth := stack.pop()) is not None:
                taken.append(depth)
            before = before[: before.index(pickletools.markobject)]
        for _ in before:
            taken.append(stack.pop() or 0)
        return taken
