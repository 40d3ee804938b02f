"""Small corpora of our own making."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emojax.types import Conversation, Signature

SIGNATURE = Signature("small", ("calm", "glad", "sad"), ("A", "B"), (4, 3, 2))


@pytest.fixture
def signature() -> Signature:
    return SIGNATURE


def make_conversation(
    name: str = "c", length: int = 5, seed: int = 0, signature: Signature = SIGNATURE, **changes
) -> Conversation:
    rng = np.random.default_rng(seed)
    text, audio, visual = (
        rng.normal(size=(length, width)).astype(np.float32) for width in signature.widths
    )
    fields: dict[str, Any] = {
        "id": name,
        "text": text,
        "audio": audio,
        "visual": visual,
        "present": rng.random((length, 3)) < 0.9,
        "speaker": rng.integers(len(signature.speakers), size=length).astype(np.int32),
        "label": rng.integers(-1, len(signature.labels), size=length).astype(np.int32),
        "transcript": tuple(f"wörd {index} of {name}" for index in range(length)),
    }
    return Conversation(**(fields | changes))


@pytest.fixture
def conversation() -> Callable[..., Conversation]:
    return make_conversation


def make_tuple(
    keys: list, *, length: int, speaker: Callable[[int], Any], widths: tuple[int, ...], classes: int
) -> list:
    """Content of a feature pickle with `length` items: two thirds of the keys train, then test."""
    rng = np.random.default_rng(7)
    utterances = {key: int(rng.integers(2, 7)) for key in keys}

    def per_dialogue(entry: Callable[[int], Any]) -> dict:
        return {key: [entry(u) for u in range(count)] for key, count in utterances.items()}

    def features(width: int) -> dict:
        return per_dialogue(lambda _: rng.normal(size=width))

    text, audio, visual = widths
    layers = [features(text) for _ in range(4 if length >= 12 else 1)]
    cut = 2 * len(keys) // 3
    content = [
        per_dialogue(lambda u: f"utterance_{u}"),
        per_dialogue(speaker),
        per_dialogue(lambda _: int(rng.integers(classes))),
        *layers,
        features(audio),
        features(visual),
        per_dialogue(lambda u: f"words of {u}"),
        keys[:cut],
        keys[cut:],
    ]
    return content + [[]] * (length - len(content))


@pytest.fixture
def iemocap_content() -> list:
    """A 9-tuple's content: 30 dialogues of five sessions, the last of them for the test."""
    keys = [f"Ses{s:02d}{g}_impro{n:02d}" for s in range(1, 6) for g in "FM" for n in (1, 2, 10)]
    content = make_tuple(keys, length=9, speaker=lambda u: "MF"[u % 2], widths=(5, 4, 3), classes=6)
    content[7:] = [{k for k in keys if "Ses05" not in k}, [k for k in keys if "Ses05" in k]]
    return content


@pytest.fixture
def meld_content() -> list:
    """A 10-tuple's content: 12 dialogues."""
    return make_tuple(
        list(range(12)),
        length=10,
        speaker=lambda u: np.eye(9)[u % 9].tolist(),
        widths=(5, 4, 3),
        classes=7,
    )


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Pickles content into a file."""

    def write(content: Any, name: str = "features.pkl", protocol: int = 4) -> Path:
        path = tmp_path / name
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        return path

    return write


@pytest.fixture
def same() -> Callable[[Conversation, Conversation], None]:
    """Asserts that two conversations agree to the last bit."""

    def same(a: Conversation, b: Conversation) -> None:
        assert (a.id, a.transcript) == (b.id, b.transcript)
        for field in ("text", "audio", "visual", "present", "speaker", "label"):
            x, y = getattr(a, field), getattr(b, field)
            assert (x.dtype, x.shape) == (y.dtype, y.shape), field
            assert x.tobytes() == y.tobytes(), field

    return same
