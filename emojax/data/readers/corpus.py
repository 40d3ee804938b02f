"""A corpus as its files give it, and what all readers share: files in, checked splits out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from emojax.data.check import check_conversation, duplicate
from emojax.errors import DataError
from emojax.types import Conversation, Signature

SPLITS = ("train", "validation", "test")
"""The names of splits, in the order they are listed everywhere."""

Key = TypeVar("Key", str, int)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """The conversations of one source, in the splits its publisher gave them.

    Attributes:
      signature: names and widths all conversations agree on.
      layout: the file layout, in words.
      splits: "train", "test" and, where the publisher made one, "validation".
      skipped: one error for each conversation set aside.
      source: where it was read from.
    """

    signature: Signature
    layout: str
    splits: Mapping[str, tuple[Conversation, ...]]
    skipped: tuple[DataError, ...]
    source: Path


def natural_key(name: object) -> tuple[list[object], str]:
    """Sort key that puts `Ses01F_impro2` before `Ses01F_impro10`, and 9 before 10."""
    text = str(name)
    parts = re.split(r"([0-9]+)", text)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], text


def assemble(
    keys: Mapping[str, Sequence[Key]],
    build: Callable[[str, Key], Conversation],
    *,
    signature: Signature,
    layout: str,
    source: Path,
    file: Path | None = None,
    skip_bad: bool = False,
) -> Corpus:
    """Builds and checks every conversation.

    A conversation in two splits stays in the one that is scored (test before validation before
    train), so setting conversations aside never makes a test set smaller than it has to be.

    Args:
      keys: of each split, what `build` wants to have, in order.
      build: (split, key) to a conversation; may raise `DataError`.
      signature, layout, source: of the corpus.
      file: named in errors where it is not the source.
      skip_bad: set a bad conversation aside instead of raising its error.

    Raises:
      DataError: a bad conversation, unless skipped; a split in which nothing is left.
    """
    file = file or source
    skipped: list[DataError] = []
    seen: dict[str, str] = {}
    splits: dict[str, tuple[Conversation, ...]] = {}
    for split in sorted(keys, key=SPLITS.index, reverse=True):
        kept = []
        for key in keys[split]:
            try:
                conversation = build(split, key)
                if conversation.id in seen:
                    raise duplicate(conversation.id, seen[conversation.id], split, file=file)
                check_conversation(conversation, signature, file=file)
            except DataError as error:
                if not skip_bad or error.conversation is None:
                    raise
                skipped.append(error)
                continue
            seen[conversation.id] = split
            kept.append(conversation)
        if not kept:
            cause = "all of them are bad" if keys[split] else "it lists none"
            raise DataError(f"no conversation for the {split} split: {cause}", file=file)
        splits[split] = tuple(kept)
    return Corpus(
        signature=signature,
        layout=layout,
        splits={split: splits[split] for split in SPLITS if split in splits},
        skipped=tuple(skipped),
        source=source,
    )
