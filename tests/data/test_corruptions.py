"""Corruptions do what their texts say, to the share they say, and the same wherever they do it."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax import types
from emojax.config import DataConfig, digest, from_dict, to_dict
from emojax.config.corruption import (
    KINDS,
    MODALITIES,
    Corruption,
    Drop,
    Freeze,
    Missing,
    MissingModality,
    Noise,
    parse,
    parse_all,
    usage,
)
from emojax.data.corruptions import corrupt, stretches
from emojax.data.statistics import spread
from emojax.errors import ConfigError
from emojax.types import Conversation
from tests.batches import SIGNATURE, random_conversation

SPREAD = {
    m: np.linspace(0.5, 3, w) for m, w in zip(MODALITIES, SIGNATURE.widths, strict=True)
}  # fmt: skip
FIELDS = [field.name for field in dataclasses.fields(Conversation)]

some_modalities = st.sets(st.sampled_from(MODALITIES), min_size=1).map(
    lambda chosen: tuple(m for m in MODALITIES if m in chosen)
)
shares = st.floats(0, 1).map(lambda x: round(x, 3))


@st.composite
def corruptions(draw: st.DrawFn) -> Corruption:
    kind = draw(st.sampled_from(list(KINDS.values())))
    values: dict = {"modalities": draw(some_modalities)}
    if issubclass(kind, Missing):
        values["rate"] = draw(st.floats(0, 1))
    else:
        values["share"] = share = draw(shares)
        least = max(1.0, share / (1 - share)) if share < 1 else 1.0
        values["length"] = least + draw(st.floats(0, 50))
    if kind is Noise:
        values["snr"] = draw(st.floats(-60, 60))
    return kind(**values)


conversations = st.builds(
    random_conversation, st.integers(0, 999), st.integers(1, 20),
    missing=st.sampled_from([0.0, 0.3, 0.9]),
)  # fmt: skip


def same(one: Conversation, other: Conversation) -> bool:
    return all(np.array_equal(getattr(one, f), getattr(other, f)) for f in FIELDS)


def long(missing: float = 0.0, length: int = 4000) -> Conversation:
    return random_conversation(1, length, missing=missing)


def test_modalities_are_those_of_the_types():
    assert MODALITIES == types.MODALITIES


@given(corruptions())
def test_a_text_names_what_it_was_written_from(how):
    assert parse(str(how)) == how
    assert str(parse(str(how))) == str(how)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("noise:snr=0", "noise:snr=0"),
        ("noise:visual+audio:share=.5:length=8:snr=-5", "noise:audio+visual:snr=-5:share=0.5"),
        ("freeze:visual:share=1.0", "freeze:visual:share=1"),
        ("drop:audio:share=0.25:length=3", "drop:audio:share=0.25:length=3"),
        ("missing:text+audio+visual:rate=5e-1", "missing:rate=0.5"),
        ("missing_modality:rate=1", "missing_modality:rate=1"),
    ],
)
def test_texts_are_read_however_they_are_written(text, canonical):
    assert str(parse(text)) == canonical


WRONG = [
    ("nose:snr=0", "there is no 'nose', only noise, freeze, drop, missing, missing_modality"),
    ("", "there is no ''"),
    ("noise", r"snr is not there. Write noise\[:text\+audio\+visual\]:snr=…\[:share=…\]\[:length="),
    ("noise:snr=loud", "snr must be a number, not 'loud'"),
    ("noise:snr=nan", r"noise: snr must be in \[-100, 100\], not nan"),
    ("noise:snr=400", r"noise: snr must be in \[-100, 100\], not 400"),
    ("noise:smell:snr=0", "'smell' is no modality. Write noise"),
    ("noise:audio+audio:snr=0", r"of modalities audio\+audio: name some of text\+audio\+visual"),
    ("noise:snr=0:snr=1", "'snr=1' is out of place. Write noise"),
    ("noise:snr=0:rate=1", "'rate=1' is out of place"),
    ("freeze:visual:share=1.1", r"freeze: share must be in \[0, 1\], not 1.1"),
    ("freeze:share=0.9:length=2", "length must be finite and at least 9, not 2.0: shorter"),
    ("drop:share=0.5:length=inf", "length must be finite and at least 1"),
    ("missing:rate=-0.1", r"missing: rate must be in \[0, 1\], not -0.1"),
    ("missing_modality:0.5", "'0.5' is no modality. Write missing_modality"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=str)
def test_a_wrong_text_is_refused_with_what_is_right(text, message):
    with pytest.raises(ConfigError, match=message):
        parse(text)
    with pytest.raises(ConfigError, match=f"^data.corrupt: .*{message}"):
        DataConfig(corrupt=(text,))


def test_what_would_draw_the_same_numbers_twice_is_refused():
    fine = ("noise:audio:snr=0", "noise:visual:snr=5", "drop:audio:share=0.5")
    assert len(parse_all(fine)) == 3
    with pytest.raises(ConfigError, match="noise is there twice for audio"):
        parse_all([*fine, "noise:audio+text:snr=3"])


def test_every_kind_is_written_as_it_says():
    for kind in KINDS.values():
        bare = usage(kind).replace("[", "").replace("]", "").replace("…", "1")
        assert isinstance(parse(bare), kind)


def test_a_config_carries_corruptions_there_and_back():
    config = DataConfig(corrupt=("noise:audio:snr=0", "missing:rate=0.5"))
    assert from_dict(to_dict(config), DataConfig) == config
    assert digest(config) != digest(DataConfig())
    with pytest.raises(ConfigError, match=r"corrupt must be a list, not 'noise:snr=0'"):
        from_dict({"corrupt": "noise:snr=0"}, DataConfig)


@given(conversations, st.lists(corruptions(), max_size=3), st.integers(0, 5))
def test_the_draw_is_that_of_the_conversation_and_of_the_seed(conversation, how, seed):
    before = copy.deepcopy(conversation)
    once = corrupt(conversation, how, SPREAD, seed)
    assert same(once, corrupt(conversation, how, SPREAD, seed))
    assert same(before, conversation)
    for name in ("id", "speaker", "label", "transcript"):
        assert getattr(once, name) is getattr(conversation, name)
    for m in MODALITIES:
        assert getattr(once, m).dtype == np.float32
        assert getattr(once, m).shape == getattr(conversation, m).shape
    # Nothing comes back that was not there.
    assert not (once.present & ~conversation.present).any()


def test_conversations_seeds_kinds_and_modalities_have_draws_of_their_own():
    one = random_conversation(0, 50, missing=0)
    other = dataclasses.replace(one, id="another")
    wide = dataclasses.replace(one, audio=one.visual, text=one.visual)
    noise, level = (Noise(snr=0),), {m: np.ones(6) for m in MODALITIES}
    found = corrupt(wide, noise, level)
    assert not np.allclose(found.text, found.audio)
    assert not np.allclose(found.audio, found.visual)
    for text in ("noise:snr=0", "drop:share=0.5", "freeze:share=0.5", "missing:rate=0.5"):
        how = parse_all([text])
        base = corrupt(one, how, SPREAD)
        assert not same(base, corrupt(one, how, SPREAD, seed=1))
        moved = corrupt(other, how, SPREAD)
        assert not all(np.array_equal(getattr(base, f), getattr(moved, f)) for f in MODALITIES)
    dropped, frozen = (
        corrupt(one, parse_all([f"{kind}:visual:share=0.5"]), SPREAD) for kind in ("drop", "freeze")
    )
    stays = (frozen.visual == one.visual).all(-1)
    assert (stays != dropped.present[:, 2]).any()


@settings(max_examples=20)
@given(st.floats(-20, 30), some_modalities)
def test_noise_is_as_loud_as_it_says(snr, modalities):
    conversation = long()
    how = Noise(snr=snr, modalities=modalities)
    found = corrupt(conversation, (how,), SPREAD)
    for m in MODALITIES:
        noise = getattr(found, m).astype(float) - getattr(conversation, m)
        if m not in modalities:
            assert not noise.any()
            continue
        ratio = 10 * np.log10(np.square(SPREAD[m]) / np.square(noise).mean(0))
        # A variance of n draws has a relative deviation of sqrt(2 / n); four of them, in dB.
        assert abs(ratio - snr).max() < 4 * 10 / np.log(10) * np.sqrt(2 / len(noise)) + 0.05
        assert np.corrcoef(noise.T)[0, 1:].max() < 0.1


def test_louder_noise_is_the_same_noise():
    conversation = long(length=40)
    soft, loud = (corrupt(conversation, (Noise(snr=snr),), SPREAD) for snr in (20, 0))
    np.testing.assert_allclose(
        loud.text - conversation.text, 10 * (soft.text - conversation.text), rtol=1e-3, atol=1e-5
    )


def test_missing_observations_and_constant_features_get_no_noise():
    records = [
        dataclasses.replace(c, audio=np.full_like(c.audio, 7))
        for c in (random_conversation(seed, 12) for seed in range(4))
    ]
    level = spread(records, SIGNATURE.widths)
    assert not level["audio"].any()
    assert (level["text"] > 0.5).all()
    found = corrupt(records[0], (Noise(snr=-10),), level)
    np.testing.assert_array_equal(found.audio, records[0].audio)
    changed = (found.text != records[0].text).any(-1)
    np.testing.assert_array_equal(changed, records[0].present[:, 0])


@settings(max_examples=20)
@given(shares, st.floats(1, 30), st.integers(0, 99))
def test_stretches_cover_their_share_at_their_length(share, length, seed):
    length = max(length, share / (1 - share) if share < 1 else 1)
    inside = stretches(20000, share, length, np.random.default_rng(seed))
    # Stretches are as good as independent draws; a stretch and the gap behind it are one draw.
    cycle = length / max(share, 1e-3)
    error = 4 * np.sqrt(share * (1 - share) * 2 * cycle / len(inside))
    assert abs(inside.mean() - share) <= error + 1e-9
    if 0.01 < share < 0.95:
        starts = int(inside[0]) + int((np.diff(inside.astype(int)) == 1).sum())
        assert inside.sum() / starts == pytest.approx(length, rel=4 / np.sqrt(starts) + 0.02)


@given(conversations, shares)
def test_frozen_video_shows_what_was_there_last(conversation, share):
    how = Freeze(share=share, length=max(8, share / max(1 - share, 1e-3)), modalities=("visual",))
    found = corrupt(conversation, (how,), SPREAD)
    there = conversation.present[:, 2]
    np.testing.assert_array_equal(found.present, conversation.present)
    np.testing.assert_array_equal(found.visual[~there], conversation.visual[~there])
    shown = None
    for now, was in zip(found.visual[there], conversation.visual[there], strict=True):
        assert shown is None or np.array_equal(now, was) or np.array_equal(now, shown)
        shown = was if shown is None or np.array_equal(now, was) else shown
        np.testing.assert_array_equal(now, shown)
    if share == 1 and there.any():
        assert (found.visual[there] == conversation.visual[there][0]).all()


def test_dropped_video_is_missing_and_gone():
    conversation = long(missing=0.2)
    found = corrupt(conversation, (Drop(share=0.4, modalities=("visual",)),), SPREAD)
    lost = conversation.present[:, 2] & ~found.present[:, 2]
    assert lost.sum() / conversation.present[:, 2].sum() == pytest.approx(0.4, abs=0.1)
    assert not found.visual[lost].any()
    np.testing.assert_array_equal(found.present[:, :2], conversation.present[:, :2])
    np.testing.assert_array_equal(found.visual[found.present[:, 2]],
                                  conversation.visual[found.present[:, 2]])  # fmt: skip
    everything = corrupt(conversation, (Drop(share=1),), SPREAD)
    assert not everything.present.any()


@given(conversations, st.floats(0, 1), some_modalities, st.booleans())
def test_each_utterance_keeps_something_it_had(conversation, rate, modalities, whole):
    how = (MissingModality if whole else Missing)(rate=rate, modalities=modalities)
    found = corrupt(conversation, (how,), SPREAD)
    had = conversation.present.any(-1)
    np.testing.assert_array_equal(found.present.any(-1), had)
    for column, m in enumerate(MODALITIES):
        lost = conversation.present[:, column] & ~found.present[:, column]
        assert not getattr(found, m)[~found.present[:, column]].any()
        if m not in modalities:
            assert not lost.any()
        elif whole and lost.any():
            # What an utterance keeps of a modality that is gone is all that it has.
            kept = found.present[:, column]
            assert (found.present[kept].sum(-1) == 1).all()
    if rate == 1 and len(modalities) == len(MODALITIES):
        assert (found.present[had].sum(-1) == 1).all()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
def test_as_much_is_missing_as_the_rate_and_the_rule_make(rate):
    found = corrupt(long(length=8000), (Missing(rate=rate),), SPREAD)
    expected = rate - rate**3 / 3  # all three gone: one of them is kept
    deviation = np.sqrt(expected * (1 - expected) / len(found))
    assert abs((~found.present).mean(0) - expected).max() <= 5 * deviation


def test_whole_modalities_are_missing_as_often_as_the_rate_says():
    records = [random_conversation(seed, 3, missing=0) for seed in range(600)]
    found = [corrupt(each, (MissingModality(rate=0.5),), SPREAD) for each in records]
    assert all((each.present == each.present[0]).all() for each in found)
    gone = np.mean([~each.present[0] for each in found])
    assert gone == pytest.approx(0.5 - 0.5**3 / 3, abs=5 * 0.5 / np.sqrt(1800))


@given(conversations, st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_what_is_missing_at_a_low_rate_is_missing_at_a_higher_one(conversation, one, two, whole):
    kind = MissingModality if whole else Missing
    low, high = (
        corrupt(conversation, (kind(rate=rate),), SPREAD) for rate in sorted((one, two))
    )  # fmt: skip
    assert not (high.present & ~low.present).any()
