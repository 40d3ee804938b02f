"""Tables of strangers: what is read, and what is refused with line and column."""

from __future__ import annotations

from pathlib import Path

import pytest

from emojax.errors import DataError
from emojax.featurize.manifest import read_manifest
from tests.featurize.recordings import HEADER, row, write_manifest


def test_rows_are_put_in_order(tmp_path: Path):
    rows = [
        row("d10", 0, 1, "x/a.wav", split="test", utterance=""),
        row("d2", 3, 4, "b.wav", utterance="10", label="", split="dev"),
        row("d2", 1, 2.5, "b.wav", utterance="9", speaker="Bob", text='a, "b"', split="dev"),
        row("d10", "", "", "x/a.wav", split="test", label="sad", utterance=""),
    ]
    path = write_manifest(tmp_path / "m.csv", rows, (*HEADER, "utterance", "split"))
    manifest = read_manifest(path)
    assert [(u.dialogue, u.number) for u in manifest.utterances] == [
        ("d2", 9), ("d2", 10), ("d10", 0), ("d10", 1)
    ]  # fmt: skip
    assert [(u.start, u.end) for u in manifest.utterances][::3] == [(1.0, 2.5), (0.0, None)]
    assert manifest.utterances[0].text == 'a, "b"'
    assert {u.split for u in manifest.utterances} == {"validation", "test"}
    assert (manifest.labels, manifest.speakers) == (("glad", "sad"), ("Ann", "Bob"))
    assert manifest.media() == {
        "b.wav": tmp_path / "b.wav", "x/a.wav": tmp_path / "x" / "a.wav"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("start", "nan", ["start", "no time"]),
        ("end", "inf", ["end", "no time"]),
        ("end", "1e300", ["end", "no time"]),
        ("end", "9" * 400, ["end", "no time"]),
        ("start", "1:30", ["start", "'1:30'", "number"]),
        ("media", "/etc/passwd", ["media", "'/etc/passwd'", "relative"]),
        ("media", "../../secret.wav", ["media", "relative"]),
        ("media", "x/../../secret.wav", ["media", "relative"]),
        ("media", "..\\secret.wav", ["media", "relative"]),
        ("media", "C:\\secret.wav", ["media", "relative"]),
        ("media", "http://example.org/a.wav", ["media", "relative"]),
        ("media", "a\x1b[2J.wav", ["media", "relative"]),
        ("media", "", ["media", "relative"]),
        ("dialogue", "", ["dialogue", "no name"]),
        ("speaker", "A" * 300, ["speaker", "no name"]),
    ],
)
def test_a_bad_cell_is_refused_with_its_line_and_column(tmp_path: Path, column, value, words):
    rows = [row("d", 0, 1, "a.wav"), row("d", 1, 2, "a.wav") | {column: value}]
    path = write_manifest(tmp_path / "m.csv", rows)
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    for word in [str(path), "line 3", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["no column dialogue, speaker"]),
        (b"dialogue,speaker,start,end,text,label\na,b,0,1,c,d\n", ["no column media"]),
        (b"dialogue,speaker,start,end,text,label,media,mood\n", ["a column 'mood'"]),
        (b"dialogue,speaker,start,end,text,label,media,media\n", ["the same name"]),
        (b"dialogue,speaker,start,end,text,label,media\n", ["no utterance"]),
        (b"dialogue,speaker,start,end,text,label,media\na,b,0,1,c,d\n", ["line 2", "6 cells"]),
        (b"dialogue,speaker,start,end,text,label,media\na,b,0,1,c,,e\n", ["no utterance has a"]),
        (b'dialogue,speaker,start,end,text,label,media\na,b,0,1,"c', ["not CSV"]),
        (b"dialogue,speaker,start,end,text,label,media\na,b,0,1,\xff,d,e\n", ["line 2", "UTF-8"]),
        (b"dialogue\0", ["zero bytes"]),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused(tmp_path: Path, content: bytes, words):
    path = tmp_path / "m.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([{"split": "train"}, {"split": "test"}], ["different splits"]),
        ([{"split": "train"}, {"split": "", "dialogue": "e"}], ["others none"]),
        ([{"split": "holdout"}], ["line 2", "'holdout'", "validation"]),
        ([{"utterance": "3"}, {"utterance": "3"}], ["same number"]),
        ([{"utterance": "-1"}], ["line 2", "'-1'", "whole number"]),
        ([{"utterance": "1" * 30}], ["whole number"]),
    ],
)
def test_splits_and_numbers_must_make_sense(tmp_path: Path, changes, words):
    rows = [row("d", 0, 1, "a.wav", split="", utterance="") | each for each in changes]
    path = write_manifest(tmp_path / "m.csv", rows, (*HEADER, "utterance", "split"))
    with pytest.raises(DataError) as caught:
        read_manifest(path)
    for word in words:
        assert word in str(caught.value)
