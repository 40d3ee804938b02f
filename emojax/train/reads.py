"""How often a run's test split was read: `test_reads.json` in its folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emojax.errors import DataError
from emojax.files import write_atomically


def reads(folder: Path) -> list[dict[str, Any]]:
    """When, and with which config, each time.

    Raises:
      DataError: the file is damaged.
    """
    path = folder / "test_reads.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path) from error
    if not isinstance(found, list):
        raise DataError("not the list of test readings that emojax writes", file=path)
    return found


def count_read(folder: Path, config: str) -> None:
    """Counted before it happens, so that whoever is cut short does not hide a reading.

    Args:
      config: digest of the run's.
    """
    entry = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "config_hash": config}
    write_atomically(
        folder / "test_reads.json", json.dumps([*reads(folder), entry], indent=1) + "\n"
    )
