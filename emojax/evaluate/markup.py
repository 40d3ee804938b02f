"""Words and tables as Markdown, and the templates of pages that stand alone.

A page's pictures are embedded, nothing is fetched, and its content policy allows no more than that.
Every text is escaped in both, because many come from strangers.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

SVG, PNG = "image/svg+xml", "image/png"


class Cell(NamedTuple):
    """A cell of a table: what it says, and in smaller print how sure that is."""

    text: str
    interval: str = ""


class Table(NamedTuple):
    """A table whose first column names the rows."""

    header: list[str]
    rows: list[list[Cell]]


def templates(*folders: Path) -> jinja2.Environment:
    """The templates of pages, those of this package and of other folders."""
    loaders = [jinja2.PackageLoader("emojax.evaluate"), jinja2.FileSystemLoader(folders)]
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def embedded(picture: bytes) -> str:
    """A PNG or SVG file as the address of itself."""
    kind = PNG if picture.startswith(b"\x89PNG") else SVG
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def short(value: Any) -> str:
    """A plain value on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {short(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(short(item) for item in value) or "–"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def escape(text: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~$&!])", r"\\\1", " ".join(text.split()))


def markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def text(cell: Cell) -> str:
        return escape(cell.text + (f" ({cell.interval})" if cell.interval else ""))

    rule = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [[text(cell) for cell in row] for row in table.rows]
    return "\n".join(map(line, [[escape(name) for name in table.header], rule, *rows]))


def markdown_list(items: Sequence[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items)
