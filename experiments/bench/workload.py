"""What the benchmark runs: conversations as long as IEMOCAP's training split, made-up features.

Speed depends on lengths and widths alone, and IEMOCAP itself may not be handed on. The lengths are
drawn from a seed, then repaired until the corpus's known totals hold exactly.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from emojax.config import DataConfig
from emojax.data.pipeline import Batches
from emojax.types import MODALITIES, Batch, Conversation, Signature

CONVERSATIONS = 120
UTTERANCES = 5679
SHORTEST, LONGEST = 8, 110
BATCH = 16
PLACES = 10592
"""Places for utterances when each batch of 16 conversations is padded to its longest."""

SIGNATURE = Signature(
    name="iemocap-like",
    labels=("happy", "sad", "neutral", "angry", "excited", "frustrated"),
    speakers=("female", "male"),
    widths=(1024, 1582, 342),
)


def places(lengths: np.ndarray) -> int:
    """Utterances of an epoch after padding each batch to its longest conversation."""
    groups = np.split(lengths, range(BATCH, len(lengths), BATCH))
    return sum(len(group) * int(group.max()) for group in groups)


def lengths() -> np.ndarray:
    """i64[120] utterances of each conversation, in the order of training.

    Gamma-distributed as dialogue lengths are (right-skewed, no mode at 0); then one utterance at a
    time is added or taken at random places until the sum is right, and orders are drawn until the
    padding is.
    """
    rng = np.random.default_rng(0)
    shape = 5
    mean = UTTERANCES / CONVERSATIONS
    drawn = np.rint(rng.gamma(shape, mean / shape, CONVERSATIONS)).astype(int)
    drawn = np.clip(drawn, SHORTEST, LONGEST)
    drawn[drawn.argmax()] = LONGEST
    while missing := UTTERANCES - drawn.sum():
        free = np.flatnonzero((drawn > SHORTEST) & (drawn < LONGEST))
        drawn[rng.choice(free)] += np.sign(missing)
    while places(drawn) != PLACES:
        rng.shuffle(drawn)
    return drawn


def conversations() -> list[Conversation]:
    """The 120 conversations in the order of training, standard normal features."""
    rng = np.random.default_rng(1)
    made = []
    for i, length in enumerate(lengths()):
        features = {
            modality: rng.standard_normal((length, width), np.float32)
            for modality, width in zip(MODALITIES, SIGNATURE.widths, strict=True)
        }
        made.append(
            Conversation(
                id=f"conversation-{i:03}",
                **features,
                present=np.ones((length, len(MODALITIES)), bool),
                speaker=rng.integers(len(SIGNATURE.speakers), size=length, dtype=np.int32),
                label=rng.integers(len(SIGNATURE.labels), size=length, dtype=np.int32),
                transcript=("",) * length,
            )
        )
    return made


def padded() -> Batches:
    """16 conversations a batch, one a row, through emojax's own pipeline.

    Rows are a little longer than the authors' padding, and the last batch has rows without a
    conversation, so that batches share shapes; `published` takes both away.
    """
    return _batches(DataConfig(layout="padded", buckets=(), batch_conversations=BATCH))


def packed() -> Batches:
    """Several conversations a row; as many updates an epoch as the authors make."""
    return _batches(DataConfig(layout="packed", buckets=(128,), batch_utterances=768))


def epoch(batches: Batches) -> list[Batch]:
    """One unshuffled epoch as numpy arrays."""
    return [packed.batch for packed in batches.one_epoch()]


def published(batch: Batch) -> Batch:
    """A padded batch as the authors make it: conversations alone, padded to the longest."""
    rows = batch.segment.any(axis=1)
    columns = slice(int(batch.extent[0]))
    cut = {
        field.name: getattr(batch, field.name)[rows, columns]
        for field in dataclasses.fields(batch)
        if field.name not in ("extent", "capacity")
    }
    return Batch(**cut)


def _batches(config: DataConfig) -> Batches:
    return Batches(conversations(), lengths(), SIGNATURE.widths, config)
