"""The exact posterior against enumeration of every hidden path, and against the generator."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from emojax.data.posterior import (
    ceiling,
    contradictions,
    isolated,
    observing,
    posterior,
    posteriors,
    sarcasm_posteriors,
    words,
)
from emojax.data.process import contradicts, world
from emojax.data.simulator import DEFAULT, SimulatorConfig, simulate, simulate_with_sarcasm
from emojax.errors import DataError
from emojax.types import Conversation

# (L, C, S, components): every joint path of the hidden variables is enumerated, so they are few.
TINY = [
    (1, 3, 3, (2, 1, 2)),
    (2, 2, 2, (2, 2, 1)),
    (2, 3, 1, (2, 2, 2)),
    (2, 2, 3, (2, 2, 1)),
    (3, 2, 2, (2, 1, 1)),
    (3, 3, 2, (1, 1, 1)),
    (3, 2, 3, (1, 1, 1)),
    (4, 2, 1, (1, 2, 1)),
    (4, 3, 1, (1, 1, 1)),
]


def enumerated(conversation: Conversation, config: SimulatorConfig) -> np.ndarray:
    """The posterior f64[L, C, 2] of emotion and sarcasm (second) by summing over all paths of all
    hidden variables, one by one.

    Written from the description of the process: a hidden variable is (every speaker's emotion,
    audio burst, visual burst, sarcastic, component of text, of audio, of visual).
    """
    classes, speakers = len(config.labels), config.speakers
    means, cue = world(config)
    hidden: list[Any] = list(
        itertools.product(
            itertools.product(range(classes), repeat=speakers),
            (0, 1),
            (0, 1),
            (0, 1),
            *(range(k) for k in config.components),
        )
    )

    def local(state, t):
        """p(sarcasm, components, observations | emotions, bursts), in logs."""
        emotions, audio_burst, visual_burst, sarcastic, *ways = state
        emotion = emotions[conversation.speaker[t]]
        words = config.partner[emotion] if sarcastic else emotion
        log_p = np.log(config.sarcasm if sarcastic else 1 - config.sarcasm)
        log_p -= sum(np.log(k) for k in config.components)
        for m, (values, centre, scale) in enumerate(
            (
                (conversation.text, means[0][words, ways[0]], 1.0),
                (
                    conversation.audio,
                    means[1][emotion, ways[1]] + (cue if sarcastic else 0),
                    config.burst_noise[0] if audio_burst else 1.0,
                ),
                (
                    conversation.visual,
                    means[2][emotion, ways[2]],
                    config.burst_noise[1] if visual_burst else 1.0,
                ),
            )
        ):
            if conversation.present[t, m]:
                log_p += norm.logpdf(values[t].astype(np.float64), centre, scale).sum()
        return log_p

    def burst(before, after, channel):
        start, stop = config.burst_start[channel], config.burst_stop[channel]
        if before is None:
            before_noisy = start / (start + stop)
            return before_noisy if after else 1 - before_noisy
        if before:
            return 1 - stop if after else stop
        return start if after else 1 - start

    def first(state):
        p = np.prod([config.base_rate[e] for e in state[0]])
        return p * burst(None, state[1], 0) * burst(None, state[2], 1)

    def move(before, after, speaker):
        p = burst(before[1], after[1], 0) * burst(before[2], after[2], 1)
        others = [s for s in range(speakers) if s != speaker]
        if any(before[0][s] != after[0][s] for s in others):
            return 0.0
        new = after[0][speaker]
        contagion = config.contagion if others else 0.0
        change = (1 - config.inertia - contagion) * config.base_rate[new]
        if before[0][speaker] == new:
            change += config.inertia
        for s in others:
            if before[0][s] == new:
                change += contagion / len(others)
        return p * change

    with np.errstate(divide="ignore"):
        paths = np.log([first(state) for state in hidden])
        paths = paths + [local(state, 0) for state in hidden]
        for t in range(1, len(conversation)):
            speaker = conversation.speaker[t]
            step = np.log([[move(a, b, speaker) for b in hidden] for a in hidden])
            paths = paths[..., None] + step + [local(state, t) for state in hidden]

    paths = np.exp(paths - logsumexp(paths))
    found = np.zeros((len(conversation), classes, 2))
    for t, speaker in enumerate(conversation.speaker):
        other_axes = tuple(axis for axis in range(len(conversation)) if axis != t)
        for state, probability in zip(hidden, paths.sum(other_axes), strict=True):
            found[t, state[0][speaker], state[3]] += probability
    return found


def assert_exact(conversation: Conversation, config: SimulatorConfig) -> None:
    expected = enumerated(conversation, config)
    found, (sarcastic,) = (
        posterior(conversation, config),
        sarcasm_posteriors([conversation], config),
    )
    np.testing.assert_allclose(found, expected.sum(-1), rtol=0, atol=1e-10)
    np.testing.assert_allclose(sarcastic, expected[..., 1], rtol=0, atol=1e-10)
    other = [emotion for emotion, partner in enumerate(config.partner) if emotion != partner]
    (contradicted,) = contradictions([conversation], config)
    np.testing.assert_allclose(contradicted, expected[:, other, 1].sum(-1), rtol=0, atol=1e-10)


@st.composite
def tiny(draw) -> tuple[Conversation, SimulatorConfig]:
    length, classes, speakers, components = draw(st.sampled_from(TINY))

    def numbers(low, high, size):
        return tuple(draw(st.lists(st.floats(low, high), min_size=size, max_size=size)))

    rates = np.array(numbers(0.05, 1, classes))
    inertia = draw(st.floats(0, 1))
    config = SimulatorConfig(
        seed=draw(st.integers(0, 2**32)),
        world_seed=draw(st.integers(0, 2**32)),
        train=0,
        validation=0,
        test=1,
        shortest=length,
        longest=length,
        labels=("a", "b", "c")[:classes],
        valence=numbers(-1, 1, classes),
        arousal=numbers(-1, 1, classes),
        partner=tuple(draw(st.permutations(range(classes)))),
        base_rate=tuple((rates / rates.sum()).tolist()),
        speakers=speakers,
        hold_turn=draw(st.floats(0, 1)),
        inertia=inertia,
        contagion=draw(st.floats(0, 1)) * (1 - inertia),
        widths=draw(st.tuples(*[st.integers(1, 3)] * 3)),
        components=components,
        identity=numbers(0, 2, 3),
        arousal_gain=numbers(0, 2, 3),
        valence_gain=numbers(0, 2, 3),
        variety=numbers(0, 2, 3),
        sarcasm=draw(st.floats(0.01, 0.99)),
        sarcasm_cue=draw(st.floats(0, 3)),
        burst_start=numbers(0.01, 1, 2),
        burst_stop=numbers(0, 1, 2),
        burst_noise=numbers(0.5, 4, 2),
        missing=numbers(0, 0.7, 3),
    )
    return simulate(config)["test"][0], config


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tiny())
def test_equals_enumeration_of_all_hidden_paths(case):
    assert_exact(*case)


@pytest.mark.parametrize(("inertia", "contagion"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_equals_enumeration_where_some_moves_are_impossible(inertia, contagion):
    config = dataclasses.replace(
        DEFAULT,
        train=0,
        validation=0,
        test=3,
        shortest=3,
        longest=3,
        labels=("a", "b"),
        valence=(1.0, -1.0),
        arousal=(1.0, -1.0),
        partner=(1, 0),
        base_rate=(0.7, 0.3),
        components=(2, 1, 1),
        inertia=inertia,
        contagion=contagion,
        burst_start=(0.0, 1.0),
        burst_stop=(0.5, 1.0),
    )
    for conversation in simulate(config)["test"]:
        assert_exact(conversation, config)


@pytest.fixture(scope="module", params=[1, 2, 3])
def case(request) -> tuple[tuple[Conversation, ...], SimulatorConfig]:
    config = dataclasses.replace(
        DEFAULT, train=0, validation=0, test=8, speakers=request.param, longest=20, seed=5
    )
    return simulate(config)["test"], config


@pytest.mark.parametrize("filtered", [False, True])
def test_rows_are_distributions(case, filtered):
    conversations, config = case
    for conversation, rows in zip(
        conversations, posteriors(conversations, config, filtered=filtered), strict=True
    ):
        assert rows.shape == (len(conversation), len(config.labels))
        assert rows.dtype == np.float64
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(-1), 1, rtol=0, atol=1e-12)


def test_neighbours_in_the_batch_change_nothing(case):
    conversations, config = case
    for conversation, rows in zip(conversations, posteriors(conversations, config), strict=True):
        np.testing.assert_allclose(posterior(conversation, config), rows, rtol=0, atol=1e-12)


def test_filtering_meets_smoothing_at_the_last_utterance(case):
    conversations, config = case
    hindsight = 0.0
    for conversation in conversations:
        smoothed = posterior(conversation, config)
        causal = posterior(conversation, config, filtered=True)
        np.testing.assert_allclose(causal[-1], smoothed[-1], rtol=0, atol=1e-12)
        hindsight = max(hindsight, np.abs(causal - smoothed).max())
    assert hindsight > 0.1


def test_filtering_never_looks_ahead(case):
    conversations, config = case
    one, other = conversations[:2]
    t = 3
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(one, name)[:t], getattr(other, name)[t:]])
        for name in ("text", "audio", "visual", "present", "speaker", "label")
    }
    words = one.transcript[:t] + other.transcript[t:]
    mixed = Conversation(id="mixed", transcript=words, **arrays)
    before = posterior(one, config, filtered=True)[:t]
    np.testing.assert_array_equal(posterior(mixed, config, filtered=True)[:t], before)
    assert np.abs(posterior(mixed, config)[:t] - posterior(one, config)[:t]).max() > 1e-6


@pytest.mark.parametrize("stored", [7.0, np.inf, np.nan])
def test_what_is_stored_for_a_missing_modality_has_no_influence(case, stored):
    conversations, config = case
    conversation = observing(conversations[0], "text", "visual")
    changed = dataclasses.replace(conversation, audio=np.full_like(conversation.audio, stored))
    np.testing.assert_array_equal(posterior(changed, config), posterior(conversation, config))


def test_nothing_observed_leaves_the_base_rate(case):
    conversations, config = case
    rows = posterior(observing(conversations[0]), config)
    np.testing.assert_allclose(rows, np.tile(config.base_rate, (len(rows), 1)), atol=1e-12)


def test_survives_features_far_from_every_mean(case):
    conversations, config = case
    far = dataclasses.replace(conversations[0], text=conversations[0].text * 1e4)
    np.testing.assert_allclose(posterior(far, config).sum(-1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("view", ["everything", "text", "isolated"])
def test_calibrated_on_what_the_generator_draws(view, filtered):
    """Each conversation's mean error is an independent draw with mean zero, if both are right."""
    config = dataclasses.replace(DEFAULT, seed=11, train=0, validation=0, test=400)
    conversations = simulate(config)["test"]
    if view == "text":
        conversations = tuple(observing(c, "text") for c in conversations)
    if view == "isolated":
        groups = [list(isolated(c)) for c in conversations]
    else:
        groups = [[c] for c in conversations]
    flat = [c for group in groups for c in group]
    rows = iter(posteriors(flat, config, filtered=filtered))
    surprise, excess = [], []
    for group in groups:
        p = np.concatenate([next(rows) for _ in group])
        label = np.concatenate([c.label for c in group])
        surprise.append(((p.argmax(-1) == label) - p.max(-1)).sum())
        entropy = -(p * np.log(np.maximum(p, 1e-300))).sum(-1)
        excess.append((-np.log(p[np.arange(len(p)), label]) - entropy).sum())
    for difference in (surprise, excess):
        standard_error = np.std(difference, ddof=1) / np.sqrt(len(difference))
        assert abs(np.mean(difference)) < 3 * standard_error


@pytest.mark.parametrize("heard", [True, False])
def test_sarcasm_is_calibrated_on_what_the_generator_draws(heard):
    """Each conversation's mean error is an independent draw with mean zero, if both are right."""
    config = dataclasses.replace(DEFAULT, seed=12, train=0, validation=0, test=400)
    drawn = simulate_with_sarcasm(config)["test"]
    if not heard:
        drawn = tuple((observing(c, "audio", "visual"), sarcastic) for c, sarcastic in drawn)
    found = words(drawn, config)
    present = np.concatenate([c.present[:, 0] for c, _ in drawn])
    np.testing.assert_array_equal(found.heard, present)
    dialogue = np.repeat(np.arange(len(drawn)), [len(c) for c, _ in drawn])
    surprise = np.bincount(dialogue, found.foreign - found.exact)
    excess = np.bincount(dialogue, (found.foreign - found.exact) * found.exact)
    for difference in (surprise, excess):
        standard_error = np.std(difference, ddof=1) / np.sqrt(len(difference))
        assert abs(np.mean(difference)) < 3 * standard_error
    others = 1 - sum(
        rate for emotion, rate in enumerate(config.base_rate) if config.partner[emotion] == emotion
    )
    assert found.foreign.mean() == pytest.approx(config.sarcasm * others, rel=0.1)


def test_neutral_sarcasm_contradicts_nothing():
    label = np.array([0, 2, 3, 2])
    sarcastic = np.array([True, True, False, False])
    assert DEFAULT.labels[2] == "neutral"
    assert contradicts(label, DEFAULT, sarcastic).tolist() == [True, False, False, False]
    assert contradicts(np.arange(6), DEFAULT).tolist() == [True, True, False, True, True, True]


def test_default_task_is_instructive():
    """The gaps the corpus is made for, on its own test split."""
    corpus = simulate()
    test, train = corpus["test"], corpus["train"]
    full = ceiling(test, DEFAULT, train=train)
    text = ceiling([observing(c, "text") for c in test], DEFAULT)
    alone = ceiling([one for c in test for one in isolated(c)], DEFAULT)
    assert 0.80 < full["bayes_accuracy"] < 0.87
    assert full["bayes_accuracy"] - text["bayes_accuracy"] > 0.10
    assert full["bayes_accuracy"] - alone["bayes_accuracy"] > 0.08
    assert alone["bayes_accuracy"] < full["causal_bayes_accuracy"] < full["bayes_accuracy"]
    assert 0.2 < full["majority_accuracy"] < 0.3


def test_ceiling_counts_by_hand(case):
    conversations, config = case
    hidden = [
        dataclasses.replace(c, label=np.where(np.arange(len(c)) % 2, c.label, -1))
        for c in conversations
    ]
    right = nll = total = 0
    for conversation in conversations:
        rows = posterior(conversation, config)
        for t in range(1, len(conversation), 2):
            right += rows[t].argmax() == conversation.label[t]
            nll -= np.log(rows[t, conversation.label[t]])
            total += 1
    found = ceiling(hidden, config, train=conversations[:1])
    assert found["bayes_accuracy"] == pytest.approx(right / total, abs=1e-12)
    assert found["bayes_nll"] == pytest.approx(nll / total, abs=1e-10)
    most = np.bincount(conversations[0].label).argmax()
    labels = np.concatenate([c.label for c in hidden])
    assert found["majority_accuracy"] == pytest.approx((labels[labels >= 0] == most).mean())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", np.zeros((4, 5), np.float32)),
        ("visual", np.zeros((3, 16), np.float32)),
        ("audio", np.full((4, 16), np.nan, np.float32)),
        ("speaker", np.array([0, 1, 2, 0], np.int32)),
    ],
)
def test_refuses_what_the_process_cannot_produce(field, value):
    good = Conversation(
        "odd",
        np.zeros((4, 32), np.float32),
        np.zeros((4, 16), np.float32),
        np.zeros((4, 16), np.float32),
        present=np.ones((4, 3), bool),
        speaker=np.zeros(4, np.int32),
        label=np.zeros(4, np.int32),
        transcript=("",) * 4,
    )
    posterior(good, DEFAULT)
    with pytest.raises(DataError, match=f"'odd', field '{field}'"):
        posterior(dataclasses.replace(good, **{field: value}), DEFAULT)
