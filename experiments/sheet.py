"""A table of texts, as Markdown and as LaTeX, and how a mean is written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from emojax.evaluate.markup import Cell, Table, escape, markdown_table

_ESCAPES = str.maketrans(
    {"%": r"\%", "_": r"\_", "&": r"\&", "±": r"$\pm$", "<": "$<$", "†": r"$^\dagger$", "*": "$^*$"}
)


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Attributes: title, names of the columns, texts of the rows, what is to be known of them."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str

    def markdown(self, depth: int = 1) -> str:
        """Args: depth of the heading."""
        rows = [[Cell(text) for text in row] for row in self.rows]
        table = markdown_table(Table(list(self.header), rows))
        note = ["", self.note] if self.note else []
        return "\n".join([f"{'#' * depth} {escape(self.title)}", "", table, *note, ""])

    def latex(self) -> str:
        """A booktabs table."""
        head, *body = (
            " & ".join(cell.translate(_ESCAPES) for cell in line) + r" \\"
            for line in (self.header, *self.rows)
        )
        return "\n".join([
            r"\begin{tabular}{l" + "r" * (len(self.header) - 1) + "}", r"\toprule", head,
            r"\midrule", *body, r"\bottomrule", r"\end{tabular}", f"% {self.title}. {self.note}",
            "",
        ])  # fmt: skip


def spread(values: Sequence[float] | np.ndarray, digits: int = 1, sign: str = "-") -> str:
    """Mean ± sample deviation, the latter where there are several values."""
    mean = f"{np.mean(values):{sign},.{digits}f}"
    return f"{mean} ± {np.std(values, ddof=1):,.{digits}f}" if len(values) > 1 else mean
