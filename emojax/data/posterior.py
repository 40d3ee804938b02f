"""What can be known of a simulated conversation: the exact posterior of emotions and of sarcasm.

Emotions and bursts are a hidden Markov chain (`emojax.data.joint_chain`). Mixture components and
sarcasm belong to one utterance alone and are summed inside its likelihood; a missing observation
says nothing, so its likelihood is 1. Given the utterance's emotion and bursts, its sarcasm depends
on its own observations alone, so what the chain finds is multiplied by that share.

Letters besides those of `emojax.types`: U utterances of several conversations, X = 4 burst states.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from emojax.data.joint_chain import JointChain, log, log_sum
from emojax.data.process import SimulatorConfig, contradicts, world
from emojax.errors import DataError
from emojax.types import MODALITIES, Conversation

_TOGETHER = 64
"""Conversations run side by side; more only costs memory."""


def posterior(
    conversation: Conversation, config: SimulatorConfig, *, filtered: bool = False
) -> np.ndarray:
    """f64[L, C]: P(emotion of the speaker of utterance t | everything observed).

    With `filtered`, given only what was observed up to t. See `posteriors` for the errors.
    """
    return posteriors((conversation,), config, filtered=filtered)[0]


def posteriors(
    conversations: Sequence[Conversation], config: SimulatorConfig, *, filtered: bool = False
) -> list[np.ndarray]:
    """`posterior` of each conversation, many at a time.

    Raises:
      DataError: a conversation has other widths or speakers than `config`, no utterance, or
        features that are not finite.
    """
    chain, found = JointChain(config), []
    infer = chain.filter if filtered else chain.smooth
    for some, inside, speaker in _together(conversations, config):
        likelihood = np.zeros((*inside.shape, len(config.labels), 4))
        likelihood[inside] = log_sum(_log_likelihood(some, config), axis=2)
        found += _apart(np.exp(infer(likelihood, speaker)), inside)
    return found


def sarcasm_posteriors(
    conversations: Sequence[Conversation], config: SimulatorConfig
) -> list[np.ndarray]:
    """f64[L, C] of each: P(emotion of the speaker of utterance t, and it is sarcastic | everything
    observed). Summed over emotions it is the posterior of sarcasm.

    Raises:
      DataError: see `posteriors`.
    """
    chain, found = JointChain(config), []
    for some, inside, speaker in _together(conversations, config):
        local = _log_likelihood(some, config)
        both = log_sum(local, axis=2)
        likelihood = np.zeros((*inside.shape, len(config.labels), 4))
        likelihood[inside] = both
        share = np.full(likelihood.shape, log(config.sarcasm))
        share[inside] = local[:, :, 1] - both
        log_state = chain.smooth_bursts(likelihood, speaker) + share
        found += _apart(np.exp(log_sum(log_state, axis=-1)), inside)
    return found


def contradictions(
    conversations: Sequence[Conversation], config: SimulatorConfig
) -> list[np.ndarray]:
    """f64[L] of each: P(the words are another emotion's than the speaker's | everything observed).

    That is sarcasm, but for emotions that are their own partner: there a sarcastic speaker means
    what the words say (`process.contradicts`).

    Raises:
      DataError: see `posteriors`.
    """
    other = contradicts(np.arange(len(config.labels)), config)
    return [rows[:, other].sum(-1) for rows in sarcasm_posteriors(conversations, config)]


class Words(NamedTuple):
    """Of U utterances: `heard` bool[U], whether there are words; `foreign` bool[U], whether they
    are another emotion's than the speaker's; `exact` f64[U], the exact posterior of that."""

    heard: np.ndarray
    foreign: np.ndarray
    exact: np.ndarray


def words(drawn: Sequence[tuple[Conversation, np.ndarray]], config: SimulatorConfig) -> Words:
    """What there is to be found about the words of conversations whose sarcasm is known.

    Args:
      drawn: of `simulator.simulate_with_sarcasm`.

    Raises:
      DataError: see `posteriors`.
    """
    conversations = [conversation for conversation, _ in drawn]
    label = np.concatenate([conversation.label for conversation in conversations])
    sarcastic = np.concatenate([sarcastic for _, sarcastic in drawn])
    return Words(
        np.concatenate([c.present[:, MODALITIES.index("text")] for c in conversations]),
        contradicts(label, config, sarcastic),
        np.concatenate(contradictions(conversations, config)),
    )


def ceiling(
    conversations: Sequence[Conversation],
    config: SimulatorConfig,
    *,
    train: Sequence[Conversation] | None = None,
) -> dict[str, float]:
    """How well anybody can do on labelled utterances of these conversations.

    The majority guess is the most frequent label of `train`, or of the process itself.

    Returns:
      bayes_accuracy: accuracy of the posterior's mode; expected_accuracy: what the posterior
      itself expects of it; bayes_nll: mean -log P(label), nats per utterance;
      causal_bayes_accuracy: accuracy from the past alone; majority_accuracy.
    """
    label = np.concatenate([conversation.label for conversation in conversations])
    labelled = label >= 0
    label = label[labelled]
    smoothed = np.concatenate(posteriors(conversations, config))[labelled]
    causal = np.concatenate(posteriors(conversations, config, filtered=True))[labelled]
    frequency = np.asarray(config.base_rate)
    if train is not None:
        seen = np.concatenate([conversation.label for conversation in train])
        frequency = np.bincount(seen[seen >= 0], minlength=len(config.labels))
    return {
        "bayes_accuracy": float((smoothed.argmax(-1) == label).mean()),
        "expected_accuracy": float(smoothed.max(-1).mean()),
        "bayes_nll": float(-np.log(smoothed[np.arange(len(label)), label]).mean()),
        "causal_bayes_accuracy": float((causal.argmax(-1) == label).mean()),
        "majority_accuracy": float((label == frequency.argmax()).mean()),
    }


def observing(conversation: Conversation, *modalities: str) -> Conversation:
    """The same conversation with every modality but these missing."""
    kept = np.array([modality in modalities for modality in MODALITIES])
    return dataclasses.replace(conversation, present=conversation.present & kept)


def isolated(conversation: Conversation) -> Iterator[Conversation]:
    """Its utterances as conversations of one utterance each: no context."""
    for t in range(len(conversation)):
        one = slice(t, t + 1)
        yield Conversation(
            id=f"{conversation.id}_{t}",
            text=conversation.text[one],
            audio=conversation.audio[one],
            visual=conversation.visual[one],
            present=conversation.present[one],
            speaker=conversation.speaker[one],
            label=conversation.label[one],
            transcript=conversation.transcript[one],
        )


def _check(conversation: Conversation, config: SimulatorConfig) -> None:
    """Refuses what the process of `config` cannot have produced."""
    if len(conversation) == 0:
        raise DataError("no utterances", conversation=conversation.id)
    for m, (modality, width) in enumerate(zip(MODALITIES, config.widths, strict=True)):
        values = getattr(conversation, modality)
        shape = values.shape
        if shape != (len(conversation), width):
            raise DataError(
                f"has shape {shape}",
                conversation=conversation.id,
                field=modality,
                fix=f"The simulator's config says ({len(conversation)}, {width})",
            )
        if not np.isfinite(values[conversation.present[:, m]]).all():
            raise DataError(
                "has NaN or infinite values where it is present",
                conversation=conversation.id,
                field=modality,
            )
    if not np.isin(conversation.speaker, range(config.speakers)).all():
        raise DataError(
            f"a speaker outside 0..{config.speakers - 1}",
            conversation=conversation.id,
            field="speaker",
        )


def _together(
    conversations: Sequence[Conversation], config: SimulatorConfig
) -> Iterator[tuple[Sequence[Conversation], np.ndarray, np.ndarray]]:
    """N of the conversations at a time, checked: they, where utterances are bool[N, L], and who
    speaks int[N, L]. Padding is an utterance of which nothing was observed: it changes no
    posterior."""
    for conversation in conversations:
        _check(conversation, config)
    for first in range(0, len(conversations), _TOGETHER):
        some = conversations[first : first + _TOGETHER]
        lengths = np.array([len(conversation) for conversation in some])
        inside = np.arange(lengths.max()) < lengths[:, None]
        speaker = np.zeros(inside.shape, int)
        speaker[inside] = np.concatenate([conversation.speaker for conversation in some])
        yield some, inside, speaker


def _apart(values: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """Of values [N, L, ...] those of each conversation."""
    return [rows[mine] for rows, mine in zip(values, inside, strict=True)]


def _log_likelihood(conversations: Sequence[Conversation], config: SimulatorConfig) -> np.ndarray:
    """log p(observations, sarcastic or not | own emotion, bursts), up to a constant:
    f64[U, C, 2, X], sincere first."""
    present = np.concatenate([conversation.present for conversation in conversations])
    means, cue = world(config)

    def mixture(m: int, centres: np.ndarray, noise: float) -> np.ndarray:
        """log of the uniform mixture around centres f64[C, K, D_m]: f64[U, C]."""
        stored = np.concatenate([getattr(c, MODALITIES[m]) for c in conversations])
        seen = present[:, m]
        log_p = np.zeros((len(stored), len(centres)))
        away = stored[seen, None, None].astype(np.float64) - centres
        squares = np.einsum("uckd,uckd->uck", away, away) / noise**2
        log_k = np.log(centres.shape[1])
        log_p[seen] = log_sum(-squares / 2, axis=-1) - log_k - centres.shape[2] * np.log(noise)
        return log_p

    sincere = mixture(0, means[0], 1.0)
    text = np.stack([sincere, sincere[:, config.partner]], axis=-1)
    audio = np.stack(
        [
            np.stack([mixture(1, centres, noise) for noise in (1.0, config.burst_noise[0])], -1)
            for centres in (means[1], means[1] + cue)
        ],
        axis=2,
    )
    visual = np.stack([mixture(2, means[2], noise) for noise in (1.0, config.burst_noise[1])], -1)
    log_q = log([1 - config.sarcasm, config.sarcasm])
    said = log_q[:, None] + text[..., None] + audio
    both = said[..., :, None] + visual[:, :, None, None, :]
    return both.reshape(*said.shape[:3], 4)
