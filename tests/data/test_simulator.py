"""The generator: reproducible, and its frequencies are those of its configuration."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from emojax.data.process import world
from emojax.data.simulator import (
    DEFAULT,
    SimulatorConfig,
    signature,
    simulate,
    simulate_with_sarcasm,
)
from emojax.errors import ConfigError
from emojax.types import Conversation

SMALL = dataclasses.replace(DEFAULT, train=30, validation=5, test=7)
ARRAYS = ("text", "audio", "visual", "present", "speaker", "label")


def same(one: Conversation, other: Conversation) -> bool:
    return (
        one.id == other.id
        and one.transcript == other.transcript
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    )


@pytest.fixture(scope="module", params=[1, 2, 3])
def many(request) -> tuple[SimulatorConfig, tuple[Conversation, ...]]:
    config = dataclasses.replace(
        DEFAULT, train=1500, validation=0, test=0, speakers=request.param, seed=3
    )
    return config, simulate(config)["train"]


def close(observed: np.ndarray, probability) -> None:
    """The frequency of independent events is within 4 standard errors of their probability."""
    spread = np.sqrt(probability * (1 - probability) / len(observed))
    assert abs(observed.mean() - probability) < 4 * spread


def test_shapes_types_and_names():
    corpus = simulate(SMALL)
    assert {split: len(drawn) for split, drawn in corpus.items()} == {
        "train": 30,
        "validation": 5,
        "test": 7,
    }
    found = signature(SMALL)
    assert (found.name, found.labels, found.speakers) == ("simulated", SMALL.labels, ("A", "B"))
    ids = [conversation.id for drawn in corpus.values() for conversation in drawn]
    assert len(set(ids)) == 42
    assert ids[1] == "train_0001"
    for drawn in corpus.values():
        for conversation in drawn:
            length = len(conversation)
            assert SMALL.shortest <= length <= SMALL.longest
            for name, width in zip(ARRAYS[:3], found.widths, strict=True):
                values = getattr(conversation, name)
                assert values.shape == (length, width)
                assert values.dtype == np.float32
            assert conversation.present.shape == (length, 3)
            assert conversation.present.dtype == bool
            assert conversation.speaker.dtype == conversation.label.dtype == np.int32
            assert len(conversation.transcript) == length
            assert conversation.label.min() >= 0
            assert conversation.label.max() < 6


def test_missing_features_are_zero_and_have_no_words(many):
    config, conversations = many
    present = np.concatenate([c.present for c in conversations])
    for m, name in enumerate(ARRAYS[:3]):
        values = np.concatenate([getattr(c, name) for c in conversations])
        np.testing.assert_array_equal((values != 0).any(-1), present[:, m])
        close(~present[:, m], config.missing[m])
    words = [line for c in conversations for line in c.transcript]
    np.testing.assert_array_equal([line != "" for line in words], present[:, 0])


def test_a_seed_says_everything():
    once, twice = simulate(SMALL), simulate(dataclasses.replace(SMALL))
    assert all(same(a, b) for split in once for a, b in zip(once[split], twice[split], strict=True))


def test_seeds_and_splits_differ_but_share_the_world():
    one, other = simulate(SMALL), simulate(dataclasses.replace(SMALL, seed=1))
    assert not any(same(a, b) for a, b in zip(one["train"], other["train"], strict=True))
    assert not np.array_equal(one["validation"][0].text[:6], one["train"][0].text[:6])
    shifted = world(dataclasses.replace(SMALL, world_seed=1))
    assert world(SMALL) is world(dataclasses.replace(SMALL))
    assert not np.allclose(world(SMALL).means[0], shifted.means[0])

    config = dataclasses.replace(SMALL, train=600, test=600, seed=2, missing=(0.0, 0.0, 0.0))
    corpus = simulate(config)
    for emotion in range(len(config.labels)):
        sarcastic = world(config).means[0][config.partner[emotion]].mean(0)
        sincere = world(config).means[0][emotion].mean(0)
        expected = (1 - config.sarcasm) * sincere + config.sarcasm * sarcastic
        for split in ("train", "test"):
            text = np.concatenate([c.text[c.label == emotion] for c in corpus[split]])
            error = text.std(0) / np.sqrt(len(text))
            assert (np.abs(text.mean(0) - expected) < 5 * error).all()


def test_resizing_one_split_leaves_the_others():
    bigger = simulate(dataclasses.replace(SMALL, train=31))
    for split in ("validation", "test"):
        assert all(map(same, bigger[split], simulate(SMALL)[split]))


def test_emotions_move_as_the_mixture_says(many):
    """Each (own, others') situation's next emotions against inertia, contagion and base rate."""
    config, conversations = many
    seen: dict[tuple[int, ...], list[int]] = {}
    for conversation in conversations:
        mood: dict[int, int] = {}
        for speaker, label in zip(conversation.speaker, conversation.label, strict=True):
            if len(mood) == config.speakers:
                others = sorted(mood[s] for s in mood if s != speaker)
                seen.setdefault((mood[speaker], *others), []).append(label)
            mood[speaker] = label
    contagion = config.contagion if config.speakers > 1 else 0
    tested = 0
    for (own, *others), following in seen.items():
        if len(following) < 100:
            continue
        expected = (1 - config.inertia - contagion) * np.array(config.base_rate)
        expected[own] += config.inertia
        for other in others:
            expected[other] += contagion / len(others)
        assert expected.sum() == pytest.approx(1)
        tested += 1
        for emotion, probability in enumerate(expected):
            close(np.array(following) == emotion, probability)
    assert tested >= 6


def test_every_utterance_has_the_base_rate(many):
    config, conversations = many
    for t in (0, 1, 5):
        label = np.array([c.label[t] for c in conversations])
        for emotion, probability in enumerate(config.base_rate):
            close(label == emotion, probability)


def test_turns_are_held_as_often_as_said(many):
    config, conversations = many
    held = np.concatenate([c.speaker[1:] == c.speaker[:-1] for c in conversations])
    if config.speakers == 1:
        assert held.all()
    else:
        close(held, config.hold_turn)


def test_bursts_show_in_the_noise():
    """Bursts that never stop, then none: the spread around the means is the noise's own."""
    quiet = dataclasses.replace(
        SMALL,
        identity=(0.0, 0.0, 0.0),
        arousal_gain=(0.0, 0.0, 0.0),
        valence_gain=(0.0, 0.0, 0.0),
        variety=(0.0, 0.0, 0.0),
        sarcasm_cue=0.0,
        missing=(0.0, 0.0, 0.0),
        burst_start=(1.0, 0.0),
        burst_stop=(0.0, 1.0),
        burst_noise=(3.0, 5.0),
    )
    for name, spread in (("text", 1), ("audio", 3), ("visual", 1)):
        values = np.concatenate([getattr(c, name) for c in simulate(quiet)["train"]])
        assert values.std() == pytest.approx(spread, rel=0.05)


def test_sarcasm_has_a_tone():
    always = dataclasses.replace(
        SMALL, sarcasm=1.0, missing=(0.0, 0.0, 0.0), burst_start=(0.0, 0.0)
    )
    never = dataclasses.replace(always, sarcasm=0.0)
    tones = [
        np.concatenate([c.audio for c in simulate(config)["train"]]).mean(0)
        for config in (never, always)
    ]
    assert np.abs(tones[1] - tones[0] - world(always).cue).max() < 0.25
    assert np.linalg.norm(world(always).cue) == pytest.approx(always.sarcasm_cue)


def test_who_was_sarcastic_is_told_apart_from_the_conversations():
    """Against the words that are seen, of means that lie far apart."""
    config = dataclasses.replace(
        SMALL, train=200, identity=(30.0, 0.0, 0.0), missing=(0.0, 0.0, 0.0), test=0
    )
    drawn = simulate_with_sarcasm(config)["train"]
    assert all(map(same, (c for c, _ in drawn), simulate(config)["train"]))
    label, text = (np.concatenate([getattr(c, n) for c, _ in drawn]) for n in ("label", "text"))
    sarcastic = np.concatenate([each for _, each in drawn])
    close(sarcastic, config.sarcasm)
    centres = world(config).means[0].mean(1)
    said = np.square(text[:, None] - centres).sum(-1).argmin(-1)
    np.testing.assert_array_equal(said, np.where(sarcastic, np.array(config.partner)[label], label))


def test_the_config_survives_json_and_hashing():
    plain = json.loads(json.dumps(dataclasses.asdict(DEFAULT)))
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
    again = SimulatorConfig(**fields)
    assert again == DEFAULT
    assert hash(again) == hash(DEFAULT)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("a", "b")},
        {"labels": ("happy",) * 6},
        {"base_rate": (0.1,) * 6},
        {"base_rate": (float("nan"),) * 6},
        {"partner": (0, 1, 2, 3, 4, 6)},
        {"speakers": 4},
        {"inertia": 0.9, "contagion": 0.2},
        {"sarcasm": 1.5},
        {"missing": (0.1, 0.1)},
        {"shortest": 10, "longest": 9},
        {"test": -1},
        {"widths": (0, 16, 16)},
        {"burst_noise": (0.0, 1.0)},
        {"identity": (float("inf"), 0.0, 0.0)},
        {"mean_length": 0.0},
    ],
)
def test_refuses_an_impossible_process(change):
    with pytest.raises(ConfigError, match="simulator: "):
        dataclasses.replace(DEFAULT, **change)
