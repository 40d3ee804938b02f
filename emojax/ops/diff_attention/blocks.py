"""Block sizes by kind of device, from the table beside this file.

`python -m experiments.bench.tune_diff_attention` measures them on the device at hand and writes its
entry. An entry is a list by row length; the last has no `length` and is for all longer rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("blocks.json")


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel divides a map.

    Attributes:
      query, key: columns of a block.
      whole_row: the longest row of which a program sees every key at once; longer ones are gone
        through block by block.
    """

    query: int
    key: int
    whole_row: int


Table = Mapping[str, Mapping[str, Sequence[Mapping[str, int]]]]

_INSTEAD: ContextVar[Table | None] = ContextVar("instead", default=None)


@functools.cache
def _stored() -> Table:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@contextlib.contextmanager
def instead(table: Table) -> Iterator[None]:
    """What is traced inside reads this table, by implementation and device kind."""
    token = _INSTEAD.set(table)
    try:
        yield
    finally:
        _INSTEAD.reset(token)


def tuned(implementation: str, kind: str, length: int) -> dict[str, Any]:
    """What the table has for rows of `length` on a kind of device, or its default."""
    known = (_INSTEAD.get() or _stored())[implementation]
    entries = known.get(kind, known["default"])
    entry = next(e for e in entries if "length" not in e or length <= e["length"])
    return {name: value for name, value in entry.items() if name != "length"}


def write(implementation: str, kind: str, entries: Sequence[Mapping[str, int]]) -> None:
    """Put a device kind's entry into the table."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    table[implementation][kind] = list(entries)
    lines = ",\n".join(
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(k)}: {json.dumps(v)}" for k, v in kinds.items())
        + "\n  }"
        for name, kinds in table.items()
    )
    TABLE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    _stored.cache_clear()
