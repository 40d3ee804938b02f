"""What an encoder is shown: the newest turns first, never more than the budget, nothing later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emojax.data.context import NAME_PIECES, Context, Special, show
from emojax.errors import ConfigError

SPECIAL = Special(-1, -2)


def turns(*lengths: int) -> list[list[int]]:
    """Word pieces that tell their turn t and their place i: 100 t + i."""
    return [[100 * t + i for i in range(n)] for t, n in enumerate(lengths)]


def test_speakers_mark_their_turns():
    marks = [[7, 8], [9], [7, 8]]
    shown = show(turns(2, 1, 2), marks, [0, 1, 2], Context(2, None, True), SPECIAL)
    assert shown[0] == ([-1, 7, 8, 0, 1, -2], 1, 5)
    assert shown[1] == ([-1, 7, 8, 0, 1, -2, 9, 100, -2], 6, 8)
    assert shown[2].ids == [-1, 7, 8, 0, 1, -2, 9, 100, -2, 7, 8, 200, 201, -2]
    assert shown[2].ids[shown[2].start : shown[2].stop] == [7, 8, 200, 201]


def test_the_budget_goes_from_the_newest_turn_back():
    words = turns(9, 8, 6, 5)
    (shown,) = show(words, [[]] * 4, [0, 1, 2, 3], Context(3, 23, False), SPECIAL)[3:]
    # 21 pieces: 5 of its own, 7 of the turn before; 9 are left for the 8 of the one before that.
    assert shown.ids == [-1, *words[1], -2, *words[2], -2, *words[3], -2]
    (shown,) = show(words, [[]] * 4, [0, 1, 2, 3], Context(3, 20, False), SPECIAL)[3:]
    # Six are left, which hold the end of that turn.
    assert shown.ids == [-1, *words[1][-5:], -2, *words[2], -2, *words[3], -2]
    (shown,) = show(words, [[]] * 4, [0, 1, 2, 3], Context(3, 18, False), SPECIAL)[3:]
    # Too few to be worth showing.
    assert shown.ids == [-1, *words[2], -2, *words[3], -2]


def test_a_long_utterance_keeps_its_beginning():
    (shown,) = show(turns(40), [[5]], [0], Context(3, 16, True), SPECIAL)
    assert shown.ids == [-1, 5, *range(13), -2]


def test_turns_without_words_are_passed_over():
    shown = show(turns(2, 0, 2), [[]] * 3, [0, 2], Context(1, None, False), SPECIAL)
    assert shown[1].ids == [-1, 0, 1, -2, 200, 201, -2]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(2 + NAME_PIECES + 4, 80)),
    st.booleans(),
    st.integers(0, 12),
)
def test_promises(lengths, most, tokens, speakers, name):
    words, marks = turns(*lengths), [[-9] * name] * len(lengths)
    spoken = [i for i, each in enumerate(words) if each]
    context = Context(most, tokens, speakers)
    found = show(words, marks, spoken, context, SPECIAL)
    assert len(found) == len(spoken)
    for rank, (place, (ids, start, stop)) in enumerate(zip(spoken, found, strict=True)):
        assert tokens is None or len(ids) <= tokens
        assert ids[0] == SPECIAL.first
        assert ids[-1] == SPECIAL.separator
        assert ids.count(SPECIAL.separator) <= 1 + most
        own = [i for i in ids[start:stop] if i >= 0]
        assert own == words[place][: len(own)]
        assert own
        assert tokens is not None or own == words[place]
        assert (-9 in ids) == (speakers and name > 0)
        # What is shown before it is the end of what was said before it, and nothing else.
        before = [i for i in ids[:start] if i >= 0]
        earlier = spoken[max(0, rank - most) : rank]
        said = [i for turn in earlier for i in words[turn]]
        if tokens is None:
            assert before == said
        else:
            seen = {i // 100 for i in before}
            assert seen == set(earlier[len(earlier) - len(seen) :])
        # Whatever comes later changes nothing.
        cut = show(words[: place + 1], marks, spoken[: rank + 1], context, SPECIAL)
        assert cut[rank] == found[rank]


@pytest.mark.parametrize(
    ("given_", "message"),
    [({"turns": -1}, "text.turns must be 0"), ({"tokens": 8}, "text.tokens must be at least 14")],
)
def test_impossible_contexts(given_, message):
    with pytest.raises(ConfigError, match=message):
        Context(**given_)
