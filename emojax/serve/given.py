"""A conversation as somebody's own code has it, checked, in a model's numbering."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emojax.data.check import check_conversation
from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature

FIELDS = (*MODALITIES, "present", "speaker", "transcript", "id")


def conversation_of(
    given: Conversation | Mapping[str, Any], signature: Signature, *, any_speaker: bool,
    encodes_text: bool = False,
) -> Conversation:  # fmt: skip
    """The conversation that was given.

    Args:
      given: `text`, `audio`, `visual`: [L, D_m] numbers, left out or None where missing; `present`:
        [L, M] of bools, by default True for each modality that is there; `speaker`: L names or
        numbers, by default one speaker; `transcript`: L texts; `id`. Features of what is not
        present may be anything.
      signature: of the model.
      any_speaker: speakers are numbered as they appear; otherwise they must be the signature's.
      encodes_text: text features will be made from `transcript`, and `text` is not taken.

    Raises:
      DataError: a field that does not fit; it says which, and what would.
    """
    if isinstance(given, Conversation):
        given = {name: getattr(given, name) for name in FIELDS}
        if encodes_text:
            del given["text"]
    if not isinstance(given, Mapping):
        raise DataError(
            f"a conversation is a mapping of arrays, not {type(given).__name__}",
            fix=f"Give some of {', '.join(FIELDS)}",
        )
    name = str(given.get("id", "conversation"))
    try:
        return _conversation(name, given, signature, any_speaker, encodes_text)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"cannot be taken as arrays: {error}", conversation=name) from error


def _conversation(
    name: str, given: Mapping[str, Any], signature: Signature, any_speaker: bool, encodes_text: bool
) -> Conversation:
    def bad(field: str, problem: str, fix: str) -> DataError:
        return DataError(problem, conversation=name, field=field, fix=fix)

    for field in given:
        if field not in FIELDS:
            raise bad(str(field), "there is no such field", f"Known are {', '.join(FIELDS)}")
    if encodes_text and given.get("text") is not None:
        raise bad("text", "this model makes its text features itself", "Give `transcript` instead")
    features = {m: np.asarray(given[m], np.float32) for m in MODALITIES if given.get(m) is not None}
    words = given.get("transcript")
    lengths = {field: len(array) for field, array in features.items() if array.ndim}
    for field in ("speaker", "transcript", "present"):
        if given.get(field) is not None:
            lengths[field] = len(given[field])
    if not lengths:
        raise bad("text", "there is nothing to read", f"Give {', '.join(MODALITIES)} or some of it")
    length = next(iter(lengths.values()))
    for field, found in lengths.items():
        if found != length:
            raise bad(
                field, f"{found} utterances where {next(iter(lengths))} has {length}",
                "Every array needs one entry for each utterance",
            )  # fmt: skip
    present = np.zeros((length, len(MODALITIES)), bool)
    for i, modality in enumerate(MODALITIES):
        present[:, i] = modality in features
    if given.get("present") is not None:
        said = np.asarray(given["present"], bool)
        if said.shape != present.shape:
            raise bad("present", f"shape {said.shape}", f"It should be {present.shape}")
        # Text that is made from words is there where there are words.
        present &= said
    arrays = {}
    for modality, width in zip(MODALITIES, signature.widths, strict=True):
        array = features.get(modality, np.zeros((length, width), np.float32))
        if array.ndim == 2:
            array = np.where(present[:, MODALITIES.index(modality), None], array, 0)
        arrays[modality] = np.ascontiguousarray(array, np.float32)
    conversation = Conversation(
        id=name, **arrays, present=present,
        speaker=_speakers(name, given.get("speaker"), length, signature, any_speaker),
        label=np.full(length, UNLABELLED, np.int32),
        transcript=tuple("" if word is None else str(word) for word in words)
        if words is not None else ("",) * length,
    )  # fmt: skip
    speakers = signature.speakers
    if any_speaker:
        speakers = tuple(map(str, range(int(conversation.speaker.max(initial=0)) + 1)))
    check_conversation(conversation, dataclasses.replace(signature, speakers=speakers))
    return conversation


def _speakers(
    name: str, given: Sequence[Any] | None, length: int, signature: Signature, any_speaker: bool
) -> np.ndarray:
    """i32[L]."""
    if given is None:
        given = [signature.speakers[0] if signature.speakers else ""] * length
    keys = [each.item() if isinstance(each, np.generic) else each for each in given]
    if any_speaker:
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)
    known = {speaker: i for i, speaker in enumerate(signature.speakers)}
    for key in keys:
        if key not in known and not (type(key) is int and 0 <= key < len(known)):
            raise DataError(
                f"the model does not know the speaker {key!r}", conversation=name, field="speaker",
                fix=f"It knows {', '.join(known)}",
            )  # fmt: skip
    return np.array([known.get(key, key) for key in keys], np.int32)
