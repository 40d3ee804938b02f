"""Block sizes by kind of device, from the table beside this file.

`python -m experiments.bench.tune_diff_attention` measures them on the device at hand and writes its
entry. An entry is a list by row length; the last has no `length` and is for all longer rows.
"""

from __future__ import annotations

import dataclasses
import functools
import json
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


@functools.cache
def _table() -> dict[str, dict[str, list[dict[str, int]]]]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def tuned(implementation: str, kind: str, length: int) -> dict[str, Any]:
    """What the table has for rows of `length` on a kind of device, or its default."""
    known = _table()[implementation]
    entries = known.get(kind, known["default"])
    entry = next(e for e in entries if "length" not in e or length <= e["length"])
    return {name: value for name, value in entry.items() if name != "length"}
