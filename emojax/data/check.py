"""Wrong data never trains silently: every conversation is looked at before it is stored.

What is refused: nothing to read (no utterance), arrays that disagree on the number of
utterances, features that are not finite or not as wide as the corpus's, labels and speakers
outside the corpus's names. Every error names file, conversation and field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature


def check_conversation(
    conversation: Conversation, signature: Signature, *, file: object = None
) -> None:
    """Raises `DataError` unless the conversation is what its corpus's signature says.

    Args:
      conversation: L utterances.
      signature: names and widths D_m the arrays must agree with.
      file: named in the error.
    """
    for field, problem, fix in _problems(conversation, signature):
        raise DataError(problem, file=file, conversation=conversation.id, field=field, fix=fix)


def check_unique(splits: Mapping[str, Iterable[Conversation]], *, file: object = None) -> None:
    """Raises `DataError` if an id occurs twice, in one split or in two."""
    seen: dict[str, str] = {}
    for split, conversations in splits.items():
        for conversation in conversations:
            if conversation.id in seen:
                raise duplicate(conversation.id, seen[conversation.id], split, file=file)
            seen[conversation.id] = split


def duplicate(conversation: str, first: str, second: str, *, file: object) -> DataError:
    """The error for a conversation found in split `second` after it was found in `first`."""
    if first == second:
        return DataError(
            f"it is listed twice in the {first} split",
            file=file,
            conversation=conversation,
            fix="List every conversation once",
        )
    return DataError(
        f"it is in two splits, {first} and {second}",
        file=file,
        conversation=conversation,
        fix="A conversation that is trained on must not be scored: keep it in one split",
    )


def _problems(
    conversation: Conversation, signature: Signature
) -> Iterator[tuple[str | None, str, str]]:
    """(field, problem, fix) of whatever is wrong, later checks relying on earlier ones."""
    features = {name: getattr(conversation, name) for name in MODALITIES}
    expected = [(name, array, np.float32, 2) for name, array in features.items()] + [
        ("present", conversation.present, np.bool_, 2),
        ("speaker", conversation.speaker, np.int32, 1),
        ("label", conversation.label, np.int32, 1),
    ]
    for field, array, dtype, ndim in expected:
        if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != ndim:
            found = (
                f"{array.dtype} of {array.ndim} dimensions"
                if isinstance(array, np.ndarray)
                else type(array).__name__
            )
            yield field, f"it is {found}", f"It should be {np.dtype(dtype)} of {ndim} dimensions"

    length = len(conversation)
    lengths = {field: len(array) for field, array, _, _ in expected}
    lengths["transcript"] = len(conversation.transcript)
    if not any(lengths.values()):
        yield None, "it has no utterances", "Leave it out, or set bad conversations aside"
    for field, found_length in lengths.items():
        if found_length != length:
            yield (
                field,
                f"{found_length} utterances where label has {length}",
                "Every array of a conversation needs one entry per utterance",
            )

    for (field, array), width in zip(features.items(), signature.widths, strict=True):
        if array.shape[1] != width:
            yield (
                field,
                f"features are {array.shape[1]} wide",
                f"In this corpus {field} is {width} wide",
            )
        bad = ~np.isfinite(array).all(axis=1)
        if bad.any():
            utterance = int(bad.argmax())
            kind = "NaN" if np.isnan(array[utterance]).any() else "infinite"
            yield (
                field,
                f"{kind} features in utterance {utterance} ({int(bad.sum())} of {length} bad)",
                "Features must be finite; a missing modality is marked in `present`",
            )
    if conversation.present.shape[1] != len(MODALITIES):
        yield (
            "present",
            f"it is {conversation.present.shape[1]} wide",
            f"One column for each of {', '.join(MODALITIES)}",
        )

    ranges = [
        ("label", conversation.label, signature.labels, UNLABELLED),
        ("speaker", conversation.speaker, signature.speakers, 0),
    ]
    for field, array, names, lowest in ranges:
        outside = (array < lowest) | (array >= len(names))
        if outside.any():
            utterance = int(outside.argmax())
            yield (
                field,
                f"{field} {int(array[utterance])} of utterance {utterance} is unknown",
                f"Known are 0 to {len(names) - 1}: {', '.join(names)}",
            )
