"""Features of words: those of a text encoder, or hashed words where there is none."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np

from emojax.data.encoded import encode_text
from emojax.data.readers import Corpus
from emojax.data.readers.featurized import unpack
from emojax.data.readers.meld_text import WIDTH, hashed_ngrams
from emojax.data.text_encoder import TextEncoder
from emojax.featurize.journal import Journal
from emojax.featurize.manifest import Manifest, Utterance
from emojax.featurize.worker import pack
from emojax.types import UNLABELLED, Conversation, Signature

_TOGETHER = 64
"""Dialogues that are encoded, and then remembered, together."""


def text_width(encoder: TextEncoder | None) -> int:
    """D_m of the features."""
    return WIDTH if encoder is None else encoder.width


def text_features(
    manifest: Manifest, encoder: TextEncoder | None, journal: Journal
) -> list[np.ndarray | None]:
    """f32[D] of every utterance in order, None of one without words.

    Raises:
      DataError: a text that is too long for the encoder.
    """
    if encoder is None:
        return [hashed_ngrams(each.text) if each.text else None for each in manifest.utterances]
    dialogues = [
        list(found)
        for _, found in itertools.groupby(manifest.utterances, lambda each: each.dialogue)
    ]
    features: list[np.ndarray | None] = []
    for start in range(0, len(dialogues), _TOGETHER):
        features += _together(dialogues[start : start + _TOGETHER], encoder, journal, manifest.path)
    return features


def _together(
    dialogues: list[list[Utterance]], encoder: TextEncoder, journal: Journal, path: Path
) -> list[np.ndarray | None]:
    said = [[(each.speaker, each.text) for each in dialogue] for dialogue in dialogues]
    flat = [text for dialogue in said for _, text in dialogue]
    if not any(flat):
        return [None] * len(flat)
    content = json.dumps([encoder.name, encoder.fingerprint, said])
    key = "text " + hashlib.sha256(content.encode()).hexdigest()
    if key not in journal.done:
        found = encode_text(_corpus(dialogues, path), encoder).splits["test"]
        rows = [row for conversation in found for row in conversation.text]
        journal.add(
            key, [pack(row) if text else None for row, text in zip(rows, flat, strict=True)]
        )
    return [
        None if packed is None else unpack(packed, encoder.width, journal.path, 0, "text")
        for packed in journal.done[key]
    ]


def _corpus(dialogues: list[list[Utterance]], path: Path) -> Corpus:
    """The words of dialogues, and who says them, as a corpus of one split."""
    speakers = sorted({each.speaker for dialogue in dialogues for each in dialogue})
    conversations = []
    for dialogue in dialogues:
        size = len(dialogue)
        empty = np.zeros((size, 1), np.float32)
        conversations.append(
            Conversation(
                dialogue[0].dialogue, text=empty, audio=empty, visual=empty,
                present=np.zeros((size, 3), bool),
                speaker=np.array([speakers.index(each.speaker) for each in dialogue], np.int32),
                label=np.full(size, UNLABELLED, np.int32),
                transcript=tuple(each.text for each in dialogue),
            )
        )  # fmt: skip
    signature = Signature("featurized", ("",), tuple(speakers), (1, 1, 1))
    return Corpus(signature, "manifest", {"test": tuple(conversations)}, (), path)
