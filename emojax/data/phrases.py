"""Words for simulated utterances, so that a person can follow a timeline; no model reads them."""

from __future__ import annotations

_PHRASES = {
    "happy": ("What a lovely day.", "I am so glad you came.", "That makes me smile."),
    "sad": ("I miss her so much.", "It has all gone quiet now.", "I could just cry."),
    "neutral": ("The bus leaves at nine.", "I put it on the table.", "There are two more."),
    "angry": ("How dare you say that!", "Get out of my sight!", "I have had enough of you!"),
    "excited": ("We won, we actually won!", "I can hardly wait!", "You have to see this!"),
    "frustrated": ("Not this again.", "Why does it never work?", "I have told them ten times."),
}


def phrase(emotion: str, way: int) -> str:
    """The words of an emotion's `way`-th text component; "" for emotions without words here."""
    ways = _PHRASES.get(emotion, ("",))
    return ways[way % len(ways)]
