"""A study on one page that stands alone: question, tables, pictures and audit cards.

The one script sorts tables, and the page's content policy lets no other run.
"""

from __future__ import annotations

import base64
import hashlib
import inspect
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup, escape

from emojax.evaluate import plots
from emojax.evaluate.markup import embedded, templates
from experiments.cards import UNPUBLISHED, Card, Verdict, reliability_table
from experiments.sheet import Sheet

TEMPLATES = Path(__file__).parent / "templates"


class Picture(NamedTuple):
    """Attributes: title, what it shows in words, and the PNG or SVG file."""

    title: str
    text: str
    file: bytes


def page(
    title: str,
    docstring: str,
    sheets: Sequence[Sheet],
    pictures: Sequence[Picture],
    cards: Sequence[Card],
) -> str:
    """The page of a study.

    Args:
      docstring: the study's: its first paragraph is the question, what is indented is code.
    """
    question, *about = inspect.cleandoc(docstring).split("\n\n")
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return templates(TEMPLATES).get_template("study.html.j2").render(
        title=title,
        question=question,
        about=[(text.startswith("    "), textwrap.dedent(text)) for text in about],
        sheets=sheets,
        pictures=[
            {"title": each.title, "text": each.text, "source": embedded(each.file)}
            for each in pictures
        ],
        cards=cards,
        prose=_prose,
        state=_state,
        unpublished=UNPUBLISHED,
        reliability=_reliability,
        bins=reliability_table,
        script=Markup(script),
        allowed=f"'sha256-{digest}'",
    )  # fmt: skip


def _prose(text: str) -> Markup:
    """Words, those between backticks as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


def _state(verdict: Verdict) -> str:
    return {True: "kept", False: "broken", None: "open"}[verdict.kept]


def _reliability(card: Card) -> str:
    assert card.reliability is not None
    bins = card.reliability
    figure = plots.reliability(
        bins["count"], bins["accuracy"], bins["confidence"], plots.clean(card.variant, 30)
    )
    return embedded(plots.themed(plots.render(figure, "svg")))
