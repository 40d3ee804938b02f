"""Silence for what Orbax abandons.

It reads and writes arrays side by side and gives up at the first that fails. That failure is
raised, and `emojax.train.checkpoint` tells it once and in words. The others, which nobody waits
for any more, complain in four ways about it, most of them with a traceback each; `hush` leaves
exactly those out.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any


def hush() -> None:
    """Call once, before the first checkpoint is written or read."""
    logging.getLogger("absl").addFilter(lambda record: not _of_orbax(record.pathname))
    logging.getLogger("asyncio").addFilter(
        lambda record: "exception was never retrieved" not in record.getMessage()
    )
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
    report = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        closed = str(unraisable.exc_value) == "Event loop is closed"
        if not closed and not (code and _of_orbax(code.co_filename)):
            report(unraisable)

    sys.unraisablehook = hook


def _of_orbax(file: str) -> bool:
    return "orbax" in Path(file).parts
