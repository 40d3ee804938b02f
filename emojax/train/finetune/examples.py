"""Utterances in their context as arrays, and the order in which training takes them.

N is the number of utterances of a batch, T its length in word pieces.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import struct

from emojax.config.finetune import FinetuneConfig
from emojax.data.context import Context, Shown
from emojax.data.readers import SPLITS, read_corpus
from emojax.data.splits import make_splits, places_of_share
from emojax.data.text_encoder import TextEncoder
from emojax.errors import ConfigError, DataError
from emojax.types import UNLABELLED, Conversation, Prediction, Signature

_EMPTY = np.array([[0, 1, 1]], np.int32)


@struct.dataclass
class TextBatch:
    """Utterances in context.

    Attributes:
      tokens: i32[N, T] word pieces.
      start, stop: i32[N]; where the utterance's own word pieces start and stop.
      length: i32[N]; how many word pieces there are, padding behind them.
      label: i32[N]; `UNLABELLED` in rows that only fill the batch.
    """

    tokens: Any
    start: Any
    stop: Any
    length: Any
    label: Any


class Slice(NamedTuple):
    """One batch of a plan: its length T, and which examples are in it."""

    length: int
    rows: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The utterances of a split that have words.

    Attributes:
      conversations: they come from.
      tokens: i32[E, most] word pieces, zeros behind them.
      bounds: i32[E, 3]; where the utterance's own start and stop, and how many there are.
      place: i32[E, 2]; of each its conversation and its place there.
      label: i32[E].
    """

    conversations: Sequence[Conversation]
    tokens: np.ndarray
    bounds: np.ndarray
    place: np.ndarray
    label: np.ndarray

    def batch(self, part: Slice, size: int) -> TextBatch:
        """numpy arrays of N = `size` rows; those that no example fills are unlabelled."""
        rows, empty = part.rows, size - len(part.rows)
        kept = min(part.length, self.tokens.shape[1])
        tokens = np.zeros((size, part.length), np.int32)
        tokens[: len(rows), :kept] = self.tokens[rows, :kept]
        # A row that only fills the batch is one word piece long.
        bounds = np.concatenate([self.bounds[rows], np.tile(_EMPTY, (empty, 1))])
        label = np.concatenate([self.label[rows], np.full(empty, UNLABELLED, np.int32)])
        start, stop, length = np.ascontiguousarray(bounds.T)
        return TextBatch(tokens, start, stop, length, label)

    def plan(self, lengths: Sequence[int], size: int, key: Sequence[int] | None) -> list[Slice]:
        """Every example once, in batches of `size` of one length; the last of each may be smaller.

        Args:
          lengths: increasing; an example goes to the shortest that holds it.
          key: numbers that say how to shuffle (seed, epoch); None leaves the order.
        """
        generator = None if key is None else np.random.default_rng(list(key))
        order = np.arange(len(self.label))
        if generator is not None:
            order = generator.permutation(order)
        bucket = np.searchsorted(lengths, self.bounds[order, 2])
        parts = []
        for number, length in enumerate(lengths):
            members = order[bucket == number]
            for first in range(0, len(members), size):
                parts.append(Slice(length, members[first : first + size]))
        if generator is None:
            return parts
        return [parts[i] for i in generator.permutation(len(parts))]

    def predictions(self, probability: np.ndarray) -> list[Prediction]:
        """f32[E, C] by conversation; an utterance without words gets the mean of all."""
        found = []
        default = probability.mean(0)
        rows = np.split(probability, np.flatnonzero(np.diff(self.place[:, 0])) + 1)
        places = np.split(self.place, np.flatnonzero(np.diff(self.place[:, 0])) + 1)
        told = {int(at[0, 0]): (at[:, 1], each) for at, each in zip(places, rows, strict=True)}
        for number, each in enumerate(self.conversations):
            of_each = np.tile(default, (len(each), 1))
            if number in told:
                at, values = told[number]
                of_each[at] = values
            found.append(
                Prediction(
                    each.id, of_each, np.zeros((len(each), 3), np.float32), each.present,
                    each.speaker, each.label, each.transcript,
                )
            )  # fmt: skip
        return found


def read_examples(
    config: FinetuneConfig, encoder: TextEncoder
) -> tuple[Signature, dict[str, Examples]]:
    """The splits of the corpus; of training only the share that is to be learned from.

    Raises:
      ConfigError: there is no source, or the encoder takes less than `text.tokens`.
      DataError: the corpus cannot be used, or a split has no labelled words.
    """
    data, text = config.data, config.text
    if not data.source:
        raise ConfigError("data.source is not set: name a corpus with transcripts (--data)")
    if text.tokens > encoder.config.longest:
        raise ConfigError(
            f"text.tokens must be at most {encoder.config.longest}, which {encoder.name} takes, "
            f"not {text.tokens}"
        )
    corpus = read_corpus(data.source, skip_bad=data.skip_bad)
    splits = dict(make_splits(corpus, data.split_rule, data.validation_fraction))
    kept = places_of_share([each.id for each in splits["train"]], data.train_share)
    splits["train"] = tuple(splits["train"][place] for place in kept)
    context = context_of(config)
    names = corpus.signature.speakers
    found = {split: _examples(splits[split], names, encoder, context) for split in SPLITS}
    for split, each in found.items():
        if not (each.label != UNLABELLED).any():
            raise DataError(
                f"the {split} split has no labelled utterance with words", file=Path(data.source),
                field="transcript", fix="Fine-tuning needs transcripts and labels",
            )  # fmt: skip
    return corpus.signature, found


def context_of(config: FinetuneConfig) -> Context:
    text = config.text
    return Context(text.turns, text.tokens, text.speakers)


def _examples(
    conversations: Sequence[Conversation], names: Sequence[str], encoder: TextEncoder,
    context: Context,
) -> Examples:  # fmt: skip
    shown: list[Shown] = []
    place, label = [], []
    for number, each in enumerate(conversations):
        speakers = [names[who] for who in each.speaker]
        shown += encoder.in_context(each.transcript, speakers, context)
        spoken = [i for i, words in enumerate(each.transcript) if words.strip()]
        place += [(number, i) for i in spoken]
        label += [each.label[i] for i in spoken]
    bounds = np.array([(start, stop, len(ids)) for ids, start, stop in shown], np.int32)
    bounds = bounds.reshape(-1, 3)
    tokens = np.zeros((len(shown), max(bounds[:, 2], default=1)), np.int32)
    for row, each_shown in enumerate(shown):
        tokens[row, : len(each_shown.ids)] = each_shown.ids
    return Examples(
        conversations, tokens, bounds, np.array(place, np.int32).reshape(-1, 2),
        np.array(label, np.int32),
    )  # fmt: skip


def corpus_hashes(examples: Mapping[str, Examples]) -> dict[str, str]:
    """Of each split, of all that training or scoring sees of it."""
    from emojax.data.splits import content_hash

    return {split: content_hash(each.conversations) for split, each in examples.items()}
