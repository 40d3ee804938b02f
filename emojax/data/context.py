"""What a text encoder is shown of a conversation when it reads one of its utterances.

An utterance on its own, or behind the turns before it, each turn closed by the encoder's separator
and opened by its speaker's name: `[CLS] Ann: hello [SEP] Bob: what? [SEP] Ann: nothing [SEP]`. Only
what was said before is shown, so a decision never depends on what comes later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from emojax.config.checks import require

NAME_PIECES = 8
"""Word pieces that the mark of a speaker may have at most."""
WORTH_SHOWING = 4
"""Word pieces of its words that a turn must have room for."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What is shown beside an utterance's words.

    Attributes:
      turns: preceding turns, as far as they fit.
      tokens: word pieces of all together, special ones included; None is what the encoder takes,
        and then an utterance that is longer is refused.
      speakers: whether turns begin with the name of who speaks.
    """

    turns: int = 0
    tokens: int | None = None
    speakers: bool = False

    def __post_init__(self) -> None:
        require(self.turns >= 0, "text.turns", f"must be 0 or more, not {self.turns}")
        least = 2 + NAME_PIECES + WORTH_SHOWING
        require(
            self.tokens is None or self.tokens >= least, "text.tokens",
            f"must be at least {least}, not {self.tokens}",
        )  # fmt: skip


class Shown(NamedTuple):
    """Word pieces as the encoder reads them.

    Attributes:
      ids: all of them.
      start, stop: of `ids`, those of the utterance itself, its speaker's mark included.
    """

    ids: list[int]
    start: int
    stop: int


class Special(NamedTuple):
    """Numbers of the encoder's own word pieces: before everything, and behind each turn."""

    first: int
    separator: int


def show(
    words: Sequence[Sequence[int]],
    marks: Sequence[Sequence[int]],
    spoken: Sequence[int],
    context: Context,
    special: Special,
) -> list[Shown]:
    """Each utterance of a conversation in its context.

    The budget is spent from the newest turn backwards. An utterance that exceeds it keeps its
    beginning; the oldest turn that is shown keeps its end, which is nearest.

    Args:
      words: word pieces of each utterance's words.
      marks: of the name of who speaks it; not looked at unless `context.speakers`.
      spoken: which utterances to show, as places in `words`. Others are no context either: they
        have no words.
    """
    heads = [list(mark[:NAME_PIECES]) if context.speakers else [] for mark in marks]
    found = []
    for rank, place in enumerate(spoken):
        target = [*heads[place], *words[place]]
        left = None if context.tokens is None else context.tokens - 2
        if left is not None:
            target = target[:left]
            left -= len(target)
        before: list[int] = []
        for turn in reversed(spoken[max(0, rank - context.turns) : rank]):
            kept = list(words[turn])
            if left is not None:
                room = left - 1 - len(heads[turn])
                if room < min(WORTH_SHOWING, len(kept)):
                    break
                kept = kept[-room:] if room < len(kept) else kept
                left -= 1 + len(heads[turn]) + len(kept)
            before = [*heads[turn], *kept, special.separator, *before]
        start = 1 + len(before)
        ids = [special.first, *before, *target, special.separator]
        found.append(Shown(ids, start, start + len(target)))
    return found
