"""A table of texts, as Markdown and as LaTeX."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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
        head, *body = ("| " + " | ".join(line) + " |" for line in (self.header, *self.rows))
        table = [head, "|" + "---|" * len(self.header), *body]
        note = ["", self.note] if self.note else []
        return "\n".join([f"{'#' * depth} {self.title}", "", *table, *note, ""])

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
