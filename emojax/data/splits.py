"""Splits: the official ones where they exist, else dialogues held out of training by a hash.

A hash of a dialogue's id puts dialogues in an order that nobody chose and nothing changes: not
the machine, not the order of a file, not a seed. Test conversations are never touched.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from emojax.data.readers.corpus import SPLITS, Corpus, natural_key
from emojax.errors import ConfigError, DataError
from emojax.types import Conversation

OFFICIAL = "official"
LEAVE_ONE_SESSION_OUT = "leave-one-session-out"
FOLD = "fold"
RULES = (
    f"{OFFICIAL!r}, '{FOLD}:K/N' with 1 <= K <= N, or '{LEAVE_ONE_SESSION_OUT}:N' with N a session"
)

VALIDATION_FRACTION = 0.1
MOSI_VALIDATION_FRACTION = 0.16
"""10 of the 62 training videos, as the published numbers we compare with hold out."""

_FOLD = re.compile(FOLD + r":([0-9]{1,4})/([0-9]{1,4})")
_ONE_SESSION = re.compile(LEAVE_ONE_SESSION_OUT + r":([0-9]{1,4})")
_SESSION = re.compile(r"Ses([0-9]+)")


def hold_out(ids: Collection[str], fraction: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation ids, each in natural order.

    The `max(1, round(fraction n))` of the n ids with the smallest blake2b hash are held out,
    whatever the order they are given in.

    Raises:
      ConfigError: the fraction is not between 0 and 1.
      DataError: an id occurs twice, or nothing would be left to train on.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction is {fraction}: it must be between 0 and 1")
    if len(set(ids)) != len(ids):
        raise DataError("an id occurs twice among the dialogues to split")
    count = max(1, round(fraction * len(ids)))
    if count >= len(ids):
        raise DataError(
            f"cannot hold out {count} of {len(ids)} training dialogues for validation",
            fix="Give more dialogues, or a smaller validation fraction",
        )
    order = _by_hash(ids)
    held, kept = order[:count], order[count:]
    return tuple(sorted(kept, key=natural_key)), tuple(sorted(held, key=natural_key))


def fold(ids: Collection[str], k: int, n: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Training and validation ids of the k-th (from 1) of n folds, each in natural order.

    Every id is held out in one fold, whatever the order they are given in.

    Raises:
      DataError: an id occurs twice, or there are fewer ids than folds.
    """
    if len(set(ids)) != len(ids):
        raise DataError("an id occurs twice among the dialogues to split")
    if len(ids) < n:
        raise DataError(f"{len(ids)} training dialogues do not make {n} folds", fix="Take fewer")
    held = _by_hash(ids)[k - 1 :: n]
    kept = sorted(set(ids) - set(held), key=natural_key)
    return tuple(kept), tuple(sorted(held, key=natural_key))


def places_of_share(ids: Sequence[str], share: float) -> tuple[int, ...]:
    """Which of n ids make up a share of them, increasing: `max(1, round(share n))` of the n.

    Those with the smallest hashes are taken, so a smaller share lies inside a larger one.
    """
    kept = set(_by_hash(ids)[: max(1, round(share * len(ids)))])
    return tuple(place for place, name in enumerate(ids) if name in kept)


def _by_hash(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=lambda name: (hashlib.blake2b(name.encode()).digest(), name))


def leave_one_session_out(
    ids: Collection[str], session: int, fraction: float = VALIDATION_FRACTION
) -> dict[str, tuple[str, ...]]:
    """IEMOCAP's ids: one session for the test, the others for training and validation.

    Args:
      ids: of all dialogues, such as `Ses05F_impro01`.
      session: number of the session to test on.
      fraction: share of the remaining dialogues held out for validation.

    Raises:
      DataError: ids without a session, or no dialogue on one of the two sides.
    """
    sessions = {}
    for name in ids:
        match = _SESSION.match(name)
        if match is None:
            raise DataError(
                "its name does not tell a session",
                conversation=name,
                fix=f"{LEAVE_ONE_SESSION_OUT} is for IEMOCAP, whose dialogues are named Ses05...",
            )
        sessions[name] = int(match[1])
    test = [name for name in ids if sessions[name] == session]
    if not test:
        known = ", ".join(map(str, sorted(set(sessions.values()))))
        raise DataError(f"there is no dialogue of session {session}", fix=f"Sessions are {known}")
    train, validation = hold_out([name for name in ids if sessions[name] != session], fraction)
    return {
        "train": train,
        "validation": validation,
        "test": tuple(sorted(test, key=natural_key)),
    }


def check_rule(rule: str) -> tuple[str, tuple[int, ...]]:
    """The name of a rule and its numbers: none, (session,) or (k, n).

    Raises:
      ConfigError: no such rule.
    """
    if rule == OFFICIAL:
        return OFFICIAL, ()
    if found := _ONE_SESSION.fullmatch(rule):
        return LEAVE_ONE_SESSION_OUT, (int(found[1]),)
    if (found := _FOLD.fullmatch(rule)) and 1 <= int(found[1]) <= int(found[2]) >= 2:
        return FOLD, (int(found[1]), int(found[2]))
    raise ConfigError(f"split rule {rule!r} is unknown: it must be {RULES}")


def make_splits(
    corpus: Corpus, rule: str = OFFICIAL, validation_fraction: float | None = None
) -> dict[str, tuple[Conversation, ...]]:
    """The train, validation and test conversations of a corpus.

    Args:
      corpus: as read.
      rule: "official" (the publisher's splits; validation is carved out of training where the
        publisher made none), "fold:K/N" (the same test, validation is the K-th of N folds of what
        is not tested on) or "leave-one-session-out:N" (IEMOCAP).
      validation_fraction: share of training dialogues carved out; None for the usual one (0.1;
        0.16 for MOSI). A published validation split is altered by folds alone.

    Raises:
      ConfigError, DataError: see `check_rule`, `hold_out`, `fold` and `leave_one_session_out`.
    """
    name, numbers = check_rule(rule)
    if validation_fraction is None:
        mosi = corpus.signature.name == "mosi"
        validation_fraction = MOSI_VALIDATION_FRACTION if mosi else VALIDATION_FRACTION
    if "train" not in corpus.splits and name != LEAVE_ONE_SESSION_OUT:
        raise DataError(
            "there is no training split", file=corpus.source,
            fix="Give more conversations; these can be predicted",
        )  # fmt: skip
    everyone = [conversation for split in corpus.splits.values() for conversation in split]
    ids: dict[str, Sequence[str]]
    if name == LEAVE_ONE_SESSION_OUT:
        names = [conversation.id for conversation in everyone]
        ids = dict(leave_one_session_out(names, numbers[0], validation_fraction))
    else:
        ids = {split: [each.id for each in found] for split, found in corpus.splits.items()}
        if name == FOLD:
            seen = [*ids["train"], *ids.get("validation", ())]
            ids["train"], ids["validation"] = fold(seen, numbers[0], numbers[1])
        elif "validation" not in ids:
            ids["train"], ids["validation"] = hold_out(ids["train"], validation_fraction)
    by_id = {conversation.id: conversation for conversation in everyone}
    return {split: tuple(by_id[name] for name in ids[split]) for split in SPLITS}


def splits_hash(ids: Iterable[str]) -> str:
    """sha256 of the ids of one split, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(ids):
        _update(digest, name.encode())
    return digest.hexdigest()


def content_hash(conversations: Iterable[Conversation]) -> str:
    """sha256 of all that a model may see of conversations, in their order."""
    digest = hashlib.sha256()
    for each in conversations:
        for words in (each.id, *each.transcript):
            _update(digest, words.encode("utf-8", "surrogatepass"))
        for array in (each.text, each.audio, each.visual, each.present, each.speaker, each.label):
            _update(digest, f"{np.dtype(array.dtype).str}{array.shape}".encode())
            _update(digest, np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _update(digest: Any, data: bytes) -> None:
    """Feeds data behind its length, so that no two sequences of parts look alike."""
    digest.update(len(data).to_bytes(8, "little"))
    digest.update(data)
