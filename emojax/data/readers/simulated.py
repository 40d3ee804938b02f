"""The embedded corpus, drawn by the simulator instead of read from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emojax.data import simulator
from emojax.data.check import check_conversation, check_unique
from emojax.data.readers.corpus import Corpus
from emojax.data.splits import content_hash

TITLE = "simulated conversations"


def read(config: simulator.SimulatorConfig | None = None) -> Corpus:
    """The corpus that `config` (the default if None) draws; it has all three splits."""
    config = config or simulator.SimulatorConfig()
    signature, splits = simulator.signature(config), simulator.simulate(config)
    for conversations in splits.values():
        for conversation in conversations:
            check_conversation(conversation, signature)
    check_unique(splits)
    return Corpus(signature, TITLE, splits, (), Path("simulated"))


def fingerprint(config: simulator.SimulatorConfig | None = None) -> str:
    """sha256 of the conversations drawn, so that a changed simulator is a changed source."""
    digest = hashlib.sha256()
    for split, conversations in read(config).splits.items():
        digest.update(f"{split} {content_hash(conversations)} ".encode())
    return digest.hexdigest()
