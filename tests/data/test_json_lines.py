"""JSON lines from strangers: read to the last bit, or refused with line, conversation, field."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emojax.data.check import check_conversation
from emojax.data.readers import json_lines
from emojax.data.readers.json_lines import read_json_lines
from emojax.errors import DataError
from emojax.types import MODALITIES, Signature
from tests.data.conftest import SIGNATURE, make_conversation
from tests.tiny_run import as_json

TEXT, AUDIO, VISUAL = [0.5, -1, 2e3, 0], [1, 2, 3], [4.5, 5]


def utterance(**changes: Any) -> dict[str, Any]:
    fields = {"speaker": "Ann", "text": TEXT, "audio": AUDIO, "visual": VISUAL, "label": "sad"}
    return fields | changes


def line(*utterances: dict[str, Any], id: Any = "a") -> str:
    return json.dumps({"id": id, "utterances": list(utterances) or [utterance()]})


@pytest.fixture
def put(tmp_path: Path):
    def put(*lines: str | bytes) -> Path:
        path = tmp_path / "conversations.jsonl"
        path.write_bytes(b"\n".join(x.encode() if isinstance(x, str) else x for x in lines))
        return path

    return put


@given(seed=st.integers(0, 2**32 - 1), length=st.integers(1, 9), scale=st.floats(-37, 37))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_what_is_written_is_what_is_read(tmp_path_factory, same, seed, length, scale):
    original = make_conversation(length=length, seed=seed)
    for column, modality in enumerate(MODALITIES):
        values = getattr(original, modality)
        values *= np.float32(10.0**scale)
        values[~original.present[:, column]] = 0
    if not original.present.any():
        original.present[0, 0] = True
    path = tmp_path_factory.mktemp("lines") / "one.jsonl"
    path.write_text(as_json(original, SIGNATURE) + "\n", encoding="utf-8")
    corpus = read_json_lines(path, SIGNATURE, any_speaker=False)
    (found,) = corpus.splits["test"]
    same(found, original)
    assert corpus.signature.speakers == SIGNATURE.speakers


def test_null_and_left_out_are_the_same(put, same):
    nulls, left_out = utterance(audio=None, label=None, transcript=None), utterance()
    del left_out["audio"], left_out["label"]
    path = put("\ufeff" + line(nulls), "", "  \r", line(left_out, id="b") + "\r")
    a, b = read_json_lines(path, SIGNATURE).splits["test"]
    assert (a.id, b.id) == ("a", "b")
    for one in (a, b):
        assert one.present.tolist() == [[True, False, True]]
        assert one.label.tolist() == [-1]
        assert one.transcript == ("",)
        assert not one.audio.any()
        assert one.text.tolist() == [TEXT]
        check_conversation(one, SIGNATURE)


def test_speakers_are_numbered_as_they_appear_however_many(put):
    names = [f"speaker {n}" for n in range(300)]
    first = line(*(utterance(speaker=name) for name in names[:200]))
    second = line(*(utterance(speaker=name) for name in reversed(names)), id="b")
    corpus = read_json_lines(put(first, second), SIGNATURE)
    for conversation, said in zip(corpus.splits["test"], (names[:200], names[::-1]), strict=True):
        assert [corpus.signature.speakers[i] for i in conversation.speaker] == said
    assert len(corpus.signature.speakers) == len(set(corpus.signature.speakers)) == 300


def test_where_speakers_are_embedded_only_known_ones_speak(put):
    path = put(line(utterance(speaker="B"), utterance(speaker="A")))
    (known,) = read_json_lines(path, SIGNATURE, any_speaker=False).splits["test"]
    assert known.speaker.tolist() == [1, 0]
    path = put(line(utterance(speaker="B"), utterance(speaker="Ann")))
    with pytest.raises(DataError, match=r"'Ann'\. Known are A, B") as caught:
        read_json_lines(path, SIGNATURE, any_speaker=False)
    assert (caught.value.conversation, caught.value.field) == ("a", "utterances[1].speaker")


DEEP = 100_000
BAD: dict[str, tuple[str | bytes, str | None, str | None, str]] = {
    "not JSON": ("hello", None, None, "not JSON: Expecting value"),
    "cut short": (line()[:-9], None, None, "not JSON"),
    "two on a line": (line() + line(), None, None, "not JSON: Extra data"),
    "not UTF-8": (line().encode()[:-9] + b"\xff" + b'"}]}', None, None, "not UTF-8"),
    "UTF-16": (line().encode("utf-16"), None, None, "not UTF-8"),
    "nested lists": ("[" * DEEP + "]" * DEEP, None, None, "nested too deeply"),
    "nested objects": ('{"id":' * DEEP, None, None, "nested too deeply"),
    "digits": ('{"id": ' + "9" * 5000 + "}", None, None, "absurdly many digits"),
    "a list": ("[1, 2]", None, None, "a list where an object"),
    "a number": ("3", None, None, "a number where an object"),
    "other field": ('{"id": "a", "utterence": []}', None, None, "no field 'utterence'"),
    "twice": ('{"id": "a", "id": "b"}', None, None, "'id' stands twice"),
    "no id": (json.dumps({"utterances": [utterance()]}), None, "id", "None is not an id"),
    "id a number": (line(id=7), None, "id", "7 is not an id"),
    "id empty": (line(id=""), None, "id", "is not an id"),
    "id endless": (line(id="x" * 201), None, "id", "is not an id"),
    "no utterances": ('{"id": "a"}', "a", "utterances", "nothing where a list"),
    "empty": ('{"id": "a", "utterances": []}', "a", "utterances", "an empty list"),
    "a text": ('{"id": "a", "utterances": "hi"}', "a", "utterances", "a text where a list"),
    "words": ('{"id": "a", "utterances": ["hi"]}', "a", "utterances[0]", "a text where an object"),
    "misspelt": (line(utterance(), utterance(vidual=[1])), "a", "utterances[1]", "'vidual'"),
    "no speaker": (line(utterance(speaker=None)), "a", "utterances[0].speaker", "None is not"),
    "speaker a number": (line(utterance(speaker=1)), "a", "utterances[0].speaker", "1 is not"),
    "NaN": (line(utterance(text=[1, math.nan, 2, 3])), "a", "utterances[0].text", "nan is not"),
    "infinite": (line(utterance(audio=[1, 2, -math.inf])), "a", "utterances[0].audio", "-inf is"),
    "1e999": (line().replace("4.5", "1e999"), "a", "utterances[0].visual", "inf is not a finite"),
    "1e39": (line().replace("4.5", "1e39"), "a", "utterances[0].visual", r"1e\+39 is not a finite"),
    "1" * 9: (line().replace("4.5", "1" * 400), "a", "utterances[0].visual", "is not a finite"),
    "true": (line(utterance(text=[1, True, 2, 3])), "a", "utterances[0].text", "a list of other"),
    "numerals": (line(utterance(text=["1"] * 4)), "a", "utterances[0].text", "a list of other"),
    "nested": (line(utterance(text=[TEXT])), "a", "utterances[0].text", "a list of other"),
    "no list": (line(utterance(text=3)), "a", "utterances[0].text", "a number where a list"),
    "an object": (line(utterance(text={})), "a", "utterances[0].text", "an object where a list"),
    "no number": (line(utterance(audio=[])), "a", "utterances[0].audio", r"0 numbers\. .* takes 3"),
    "ragged": (line(utterance(), utterance(text=[1])), "a", "utterances[1].text", "1 numbers"),
    "too wide": (line(utterance(text=[1] * 9999)), "a", "utterances[0].text", "9999 numbers"),
    "transcript": (line(utterance(transcript=[])), "a", "utterances[0].transcript", "a list where"),
    "label": (line(utterance(label="angst")), "a", "utterances[0].label", "calm, glad, sad"),
    "label an index": (line(utterance(label=0)), "a", "utterances[0].label", "does not know 0"),
    "label a list": (line(utterance(label=["sad"])), "a", "utterances[0].label", "does not know"),
    "nothing": (line({"speaker": "A"}), "a", "utterances", "no utterance has features"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_wrong_is_refused_with_its_place(put, bad: str):
    text, conversation, field, problem = BAD[bad]
    path = put(line(id="first"), text, line(id="last"))
    with pytest.raises(DataError, match=problem) as caught:
        read_json_lines(path, SIGNATURE)
    error = caught.value
    assert (error.file, error.conversation, error.field) == (str(path), conversation, field)
    assert error.problem.startswith("line 2: ")
    assert len(str(error)) < 500 + len(str(path))

    corpus = read_json_lines(path, SIGNATURE, skip_bad=True)
    assert [c.id for c in corpus.splits["test"]] == ["first", "last"]
    assert [str(each) for each in corpus.skipped] == [str(error)]

    with pytest.raises(DataError, match="no other conversation is left") as caught:
        read_json_lines(put(text), SIGNATURE, skip_bad=True)
    assert (caught.value.conversation, caught.value.field) == (conversation, field)


def test_an_id_that_comes_back_is_refused(put):
    path = put(line(), line(id="b"), line())
    with pytest.raises(DataError, match="line 3: the id is that of line 1") as caught:
        read_json_lines(path, SIGNATURE)
    assert (caught.value.conversation, caught.value.field) == ("a", "id")
    corpus = read_json_lines(path, SIGNATURE, skip_bad=True)
    assert [c.id for c in corpus.splits["test"]] == ["a", "b"]


def test_a_conversation_set_aside_leaves_no_speaker(put):
    path = put(line(utterance(speaker="Eve"), utterance(text=[1])), line(id="b"))
    corpus = read_json_lines(path, SIGNATURE, skip_bad=True)
    assert corpus.signature.speakers == ("Ann",)


def test_files_that_are_none(put, tmp_path: Path, monkeypatch):
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(DataError, match="cannot be read") as caught:
            read_json_lines(path, SIGNATURE)
        assert caught.value.file == str(path)
    for nothing in ("", "\n \n\t\r\n"):
        with pytest.raises(DataError, match="there is no conversation in it"):
            read_json_lines(put(nothing), SIGNATURE, skip_bad=True)
    monkeypatch.setattr(json_lines, "LONGEST_LINE", len(line()))
    assert read_json_lines(put(line()), SIGNATURE).splits["test"]
    with pytest.raises(DataError, match="line 1 is longer than"):
        read_json_lines(put(line() + " "), SIGNATURE, skip_bad=True)


LABELS = st.sampled_from([None, *SIGNATURE.labels, "other", 3])
NUMBERS = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=2))
FEATURES = st.one_of(st.none(), st.lists(NUMBERS, max_size=5), st.just(TEXT), st.just(AUDIO))
UTTERANCES = st.fixed_dictionaries(
    {"speaker": st.sampled_from(["A", "B", "", "C", None])},
    optional=dict.fromkeys(MODALITIES, FEATURES) | {"transcript": NUMBERS, "label": LABELS},
)
VALUES = st.recursive(NUMBERS, lambda v: st.lists(v) | st.dictionaries(st.text(max_size=3), v))


@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries({"id": st.text(max_size=2), "utterances": st.lists(UTTERANCES)}),
            VALUES,
        ),
        max_size=4,
    ),
    st.lists(st.tuples(st.integers(0, 999), st.integers(0, 255)), max_size=3),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_comes_is_sound_or_refused(tmp_path_factory, contents, changes):
    data = bytearray("\n".join(map(json.dumps, contents)).encode())
    for place, byte in changes:
        if data:
            data[place % len(data)] = byte
    path = tmp_path_factory.mktemp("fuzz") / "lines.jsonl"
    path.write_bytes(data)
    try:
        corpus = read_json_lines(path, SIGNATURE, skip_bad=True)
    except DataError:
        return
    signature: Signature = corpus.signature
    found = corpus.splits["test"]
    assert len({c.id for c in found}) == len(found)
    for conversation in found:
        check_conversation(conversation, signature)
    said = sum(bool(part.strip()) for part in bytes(data).split(b"\n"))
    assert len(found) + len(corpus.skipped) == said
