"""Conversations as they would have come from bad microphones, cameras and networks.

What is drawn for a conversation depends on its id, the kind of corruption, the modality and a seed,
so it is the same wherever the conversation stands, and stronger corruptions differ from weaker ones
in strength alone: noise is the same but louder, what is missing at a low rate is missing at a
higher one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from emojax.config.corruption import Corruption, Drop, Freeze, Missing, MissingModality, Noise
from emojax.types import MODALITIES, Conversation

Stream = Callable[[str], np.random.Generator]
"""Modality -> random numbers of its own."""


def corrupt(
    conversation: Conversation, corruptions: Sequence[Corruption],
    spread: Mapping[str, np.ndarray], seed: int = 0,
) -> Conversation:  # fmt: skip
    """The conversation after one corruption and then the next.

    Args:
      spread: f64[D_m] of each modality, deviations of features over clean conversations; see
        `emojax.data.statistics.spread`.
    """
    for how in corruptions:
        stream = _stream(how.kind, conversation.id, seed)
        match how:
            case Noise():
                conversation = add_noise(conversation, how, spread, stream)
            case Freeze():
                conversation = freeze(conversation, how, stream)
            case Drop():
                conversation = drop(conversation, how, stream)
            case Missing():
                conversation = hide(conversation, how, stream)
            case _:
                raise TypeError(f"nobody wrote down what {how.kind} does")
    return conversation


def _stream(kind: str, name: str, seed: int) -> Stream:
    def stream(modality: str) -> np.random.Generator:
        text = "\0".join((kind, modality, name))
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return np.random.default_rng([seed, int.from_bytes(digest, "little")])

    return stream


def stretches(length: int, share: float, mean: float, draw: np.random.Generator) -> np.ndarray:
    """bool[L], where a stationary two-state Markov chain is inside a stretch.

    Args:
      share: chance of each utterance to be inside.
      mean: number of utterances of a stretch on average.
    """
    u = draw.random(length)
    if share == 1:
        return np.ones(length, bool)
    leave = 1 / mean
    enter = leave * share / (1 - share)
    inside = np.zeros(length, bool)
    chance = share
    for t in range(length):
        inside[t] = u[t] < chance
        chance = 1 - leave if inside[t] else enter
    return inside


def add_noise(
    conversation: Conversation, how: Noise, spread: Mapping[str, np.ndarray], stream: Stream
) -> Conversation:
    """Gaussian noise on the observations inside stretches.

    The deviation of a feature's noise is its own times 10^(-snr / 20), so a feature that does not
    vary has none: no model has learned to do without it.
    """
    changed = {}
    for modality in how.modalities:
        draw, x = stream(modality), getattr(conversation, modality)
        inside = stretches(len(x), how.share, how.length, draw)
        inside &= conversation.present[:, MODALITIES.index(modality)]
        noise = 10 ** (-how.snr / 20) * spread[modality] * draw.standard_normal(x.shape)
        changed[modality] = np.where(inside[:, None], x + noise, x).astype(np.float32)
    return dataclasses.replace(conversation, **changed)


def freeze(conversation: Conversation, how: Freeze, stream: Stream) -> Conversation:
    """Observations inside stretches are the last one from before, or the first of all."""
    changed = {}
    for modality in how.modalities:
        x = getattr(conversation, modality)
        there = conversation.present[:, MODALITIES.index(modality)]
        inside = stretches(len(x), how.share, how.length, stream(modality))
        shown = there & ~inside
        shown[there.argmax()] |= there.any()
        last = np.maximum.accumulate(np.where(shown, np.arange(len(x)), 0))
        changed[modality] = np.where(there[:, None], x[last], x)
    return dataclasses.replace(conversation, **changed)


def drop(conversation: Conversation, how: Drop, stream: Stream) -> Conversation:
    """Observations inside stretches are missing."""
    keep = conversation.present.copy()
    for modality in how.modalities:
        keep[:, MODALITIES.index(modality)] &= ~stretches(
            len(keep), how.share, how.length, stream(modality)
        )
    return _without(conversation, keep)


def hide(conversation: Conversation, how: Missing, stream: Stream) -> Conversation:
    """Observations are missing at random, and where all would be, the last to go is kept."""
    length = len(conversation)
    patience = np.ones((length, len(MODALITIES)))
    for modality in how.modalities:
        count = 1 if isinstance(how, MissingModality) else length
        patience[:, MODALITIES.index(modality)] = stream(modality).random(count)
    there = conversation.present
    keep = there & (patience >= how.rate)
    lost = ~keep.any(-1) & there.any(-1)
    keep[lost, np.where(there, patience, -1).argmax(-1)[lost]] = True
    return _without(conversation, keep)


def _without(conversation: Conversation, keep: np.ndarray) -> Conversation:
    """The conversation with bool[L, M] of its observations, zeros where there are none."""
    text, audio, visual = (
        np.where(keep[:, column, None], getattr(conversation, modality), np.float32(0))
        for column, modality in enumerate(MODALITIES)
    )
    return dataclasses.replace(conversation, text=text, audio=audio, visual=visual, present=keep)
