"""Corpora whose text features are made from their transcripts, instead of what they bring.

Distributed text features were often learned on the labels of the training split and then know too
much of them; a frozen encoder knows nothing of the corpus. One that was fine-tuned on the training
split is such a learner too: its features tell more of those utterances than of new ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emojax.data.context import Shown
from emojax.data.progress import progress
from emojax.data.readers import Corpus, read_corpus
from emojax.data.text_encoder import TextEncoder
from emojax.errors import DataError
from emojax.types import MODALITIES, Conversation

if TYPE_CHECKING:
    from emojax.data.simulator import SimulatorConfig


def read_encoded(
    source: str | Path | SimulatorConfig, encoder: TextEncoder | None, *, skip_bad: bool = False
) -> Corpus:
    """`read_corpus`, and then `encode_text` if there is an encoder; raises what they raise."""
    corpus = read_corpus(source, skip_bad=skip_bad)
    return corpus if encoder is None else encode_text(corpus, encoder, skip_bad=skip_bad)


def encode_text(corpus: Corpus, encoder: TextEncoder, *, skip_bad: bool = False) -> Corpus:
    """The corpus with text features made from its transcripts; without words, text is missing.

    Args:
      skip_bad: set a conversation with too long a transcript aside instead of raising.

    Raises:
      DataError: there is no transcript at all, or, unless skipped, one too long for the encoder.
    """
    skipped = list(corpus.skipped)
    pieces: dict[tuple[str, int], list[Shown]] = {}
    names = corpus.signature.speakers
    for split, found in corpus.splits.items():
        for i, each in enumerate(found):
            try:
                pieces[split, i] = _pieces(each, encoder, names, corpus.source)
            except DataError as error:
                if not skip_bad:
                    raise
                skipped.append(error)
    flat = [ids for found in pieces.values() for ids in found]
    if not flat:
        raise DataError(
            "there are no transcripts for data.text_encoder to read", file=corpus.source,
            fix="Leave data.text_encoder empty to take the features that the source brings",
        )  # fmt: skip
    with progress("Encoding transcripts", len(flat)) as advance:
        features = iter(encoder.encode(flat, advance))
    splits: dict[str, list[Conversation]] = {split: [] for split in corpus.splits}
    for split, i in pieces:
        splits[split].append(_with_text(corpus.splits[split][i], features, encoder.width))
    for split, kept in splits.items():
        if not kept:
            raise DataError(
                f"no conversation for the {split} split: all of them are bad", file=corpus.source
            )
    known = corpus.signature
    signature = dataclasses.replace(
        known, widths=(encoder.width, *known.widths[1:]), frames=(1, *known.frames[1:])
    )
    return dataclasses.replace(
        corpus,
        signature=signature,
        splits={split: tuple(kept) for split, kept in splits.items()},
        skipped=tuple(skipped),
    )


def _pieces(
    conversation: Conversation, encoder: TextEncoder, names: Sequence[str], file: Path
) -> list[Shown]:
    """Word pieces of the utterances that have words."""
    speakers = [names[who] for who in conversation.speaker]
    pieces = encoder.read(conversation.transcript, speakers)
    longest = max((len(shown.ids) for shown in pieces), default=0)
    if longest > encoder.config.longest:
        raise DataError(
            f"an utterance of {longest} word pieces", file=file, conversation=conversation.id,
            field="transcript",
            fix=f"{encoder.name} reads {encoder.config.longest}: split the utterance, or set the "
            "conversation aside with --skip-bad",
        )  # fmt: skip
    return pieces


def _with_text(
    conversation: Conversation, features: Iterator[np.ndarray], width: int
) -> Conversation:
    spoken = np.array([bool(words.strip()) for words in conversation.transcript])
    text = np.zeros((len(conversation), width), np.float32)
    for i in np.flatnonzero(spoken):
        text[i] = next(features)
    present = conversation.present.copy()
    present[:, MODALITIES.index("text")] = spoken
    return dataclasses.replace(conversation, text=text, present=present)
