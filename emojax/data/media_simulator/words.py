"""Template sentences: some tell an emotion, some could be said in any."""

from __future__ import annotations

import re

import numpy as np

_TEMPLATES = {
    "happy": ("I am so glad you came {when}.", "What a lovely {thing} that is.",
              "That {thing} makes me smile.", "It was a wonderful day {when}."),
    "sad": ("I miss the old {thing} so much.", "I could just cry {when}.",
            "Nothing is left of the {thing}.", "It has all gone quiet {when}."),
    "neutral": ("The {thing} is on the table.", "The bus leaves {when}.",
                "There are two of them {when}.", "I put the {thing} away."),
    "angry": ("How dare you touch my {thing}!", "Get that {thing} out of my sight!",
              "I have had enough of it {when}!", "You ruined the {thing} on purpose!"),
    "excited": ("We won, we actually won {when}!", "I can hardly wait for the {thing}!",
                "You have to see this {thing}!", "It is going to happen {when}!"),
    "frustrated": ("Why does the {thing} never work?", "I told them about the {thing} ten times.",
                   "Not this again {when}.", "The {thing} is still not here."),
}  # fmt: skip
_PLAIN = (
    "Well, you know the {thing}.", "So that was it {when}.", "They told me about the {thing}.",
    "I did not expect that {when}.", "Look at the {thing}.", "And then it was over {when}.",
)  # fmt: skip
_THINGS = ("garden", "letter", "kitchen", "photograph", "guitar", "ticket", "present", "window")
_TIMES = ("today", "this morning", "after dinner", "last night", "on Monday", "again")

SENTENCES = 4
"""Of each emotion."""


def sentence(emotion: str, plain: float, draw: np.random.Generator) -> tuple[str, bool]:
    """Words of an emotion, or with that chance words of any; and which it was."""
    neutral_words = bool(draw.random() < plain)
    ways = _PLAIN if neutral_words else _TEMPLATES[emotion]
    template = ways[draw.integers(len(ways))]
    thing, when = _THINGS[draw.integers(len(_THINGS))], _TIMES[draw.integers(len(_TIMES))]
    return template.format(thing=thing, when=when), neutral_words


def syllables(text: str) -> int:
    """About how many syllables: groups of vowels, a silent final e left out."""
    words = re.findall(r"[a-z]+", text.lower())
    counts = (len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", word))) for word in words)
    return sum(max(count, 1) for count in counts)
