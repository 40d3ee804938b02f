"""The embedded corpus, drawn by the simulator instead of read from a file."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from emojax.data import simulator
from emojax.data.check import check_conversation, check_unique
from emojax.data.readers.corpus import Corpus
from emojax.data.splits import content_hash

TITLE = "simulated conversations"
_PROBE = 8


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
    """sha256 of the config and of a few conversations drawn with it.

    A simulator, or a numpy, that draws differently is thereby a changed source, and nobody waits
    for thousands of conversations to learn that they are stored already.
    """
    config = config or simulator.SimulatorConfig()
    digest = hashlib.sha256(repr(config).encode())
    probe = dataclasses.replace(config, train=_PROBE, validation=_PROBE, test=_PROBE)
    for split, conversations in simulator.simulate(probe).items():
        digest.update(f"{split} {content_hash(conversations)} ".encode())
    return digest.hexdigest()
