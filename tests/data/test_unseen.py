"""Corpora read for a model: by name, whatever their own numbering, or refused."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest

from emojax.data.prepare import prepare
from emojax.data.readers import iemocap, read_corpus
from emojax.data.unseen import read_unseen
from emojax.errors import DataError
from emojax.types import MODALITIES, Signature
from tests.tiny_run import as_json

LABELS = (*reversed(iemocap.LABELS), "bored")
MODEL = Signature("mine", LABELS, ("F", "M", "X"), (5, 4, 3))


@pytest.fixture
def source(write, iemocap_content) -> Path:
    return write(iemocap_content)


def everyone(corpus) -> list:
    return [each for split in corpus.splits.values() for each in split]


@pytest.mark.parametrize("any_speaker", [True, False])
def test_labels_and_speakers_are_matched_by_name(source: Path, any_speaker: bool):
    original, found = read_corpus(source), read_unseen(source, MODEL, any_speaker=any_speaker)
    assert found.signature.labels == LABELS
    assert found.signature.speakers == (("M", "F") if any_speaker else MODEL.speakers)
    pairs = list(zip(everyone(original), everyone(found), strict=True))
    assert len(pairs) == 30
    for one, two in pairs:
        assert one.id == two.id
        for m in (*MODALITIES, "present"):
            np.testing.assert_array_equal(getattr(one, m), getattr(two, m))
        for field, names in (("label", "labels"), ("speaker", "speakers")):
            named = [
                [getattr(c.signature, names)[i] for i in getattr(each, field)]
                for c, each in ((original, one), (found, two))
            ]
            assert named[0] == named[1]
            assert getattr(two, field).dtype == np.int32


def test_every_form_of_a_corpus_reads_alike(source: Path, tmp_path: Path, same):
    prepared = prepare(source, tmp_path / "data")
    from_folder = read_unseen(prepared.path, MODEL, any_speaker=False)
    lines = tmp_path / "lines"
    original = [c for split in ("train", "validation", "test") for c in prepared.split(split)]
    lines.write_text("".join(as_json(c, prepared.signature) + "\n" for c in original))
    from_lines = read_unseen(lines, MODEL, any_speaker=False)
    by_id = {c.id: c for c in everyone(read_unseen(source, MODEL, any_speaker=False))}
    assert len(by_id) == len(everyone(from_folder)) == len(everyone(from_lines)) == 30
    for one, two in zip(everyone(from_folder), everyone(from_lines), strict=True):
        same(one, two)
        same(one, by_id[one.id])


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_any_protocol_are_no_json_lines(iemocap_content, tmp_path: Path, protocol: int):
    path = tmp_path / "features.jsonl"
    for kind in (tuple, list):
        path.write_bytes(pickle.dumps(kind(iemocap_content), protocol=protocol))
        assert len(everyone(read_unseen(path, MODEL))) == 30


def test_unlabelled_utterances_stay_so(tmp_path: Path, write, meld_content, conversation):
    """MELD's labels are not this model's, but nobody asks for them."""
    names = [f"speaker {i}" for i in range(9)]
    with pytest.raises(DataError, match="does not know the label") as caught:
        read_unseen(write(meld_content), MODEL)
    assert caught.value.field == "label"
    model = Signature("mine", LABELS, (), (4, 3, 2))
    unlabelled = conversation(label=np.full(5, -1, np.int32))
    path = tmp_path / "lines"
    path.write_text(as_json(unlabelled, Signature("other", ("glum",), tuple(names), (4, 3, 2))))
    (found,) = everyone(read_unseen(path, model))
    assert found.label.tolist() == [-1] * 5


def test_what_does_not_fit_is_refused(source: Path, iemocap_content, write):
    for place, modality in enumerate(MODALITIES):
        widths = list(MODEL.widths)
        widths[place] += 1
        other = dataclasses.replace(MODEL, widths=tuple(widths))
        with pytest.raises(DataError, match=f"The model takes {widths[place]}") as caught:
            read_unseen(source, other, skip_bad=True)
        assert (caught.value.file, caught.value.field) == (str(source), modality)

    sad = {key for key, labels in iemocap_content[2].items() if 1 in labels}
    assert 0 < len(sad) < 30
    cheerful = dataclasses.replace(MODEL, labels=tuple(x for x in LABELS if x != "sad"))
    with pytest.raises(DataError, match=r"does not know the label 'sad'. It knows frus") as caught:
        read_unseen(source, cheerful)
    assert caught.value.conversation in sad
    found = read_unseen(source, cheerful, skip_bad=True)
    assert {error.conversation for error in found.skipped} == sad
    assert {c.id for c in everyone(found)} == iemocap_content[2].keys() - sad

    alone = dataclasses.replace(MODEL, speakers=("M",))
    assert len(everyone(read_unseen(source, alone))) == 30
    with pytest.raises(DataError, match="does not know the speaker 'F'") as caught:
        read_unseen(source, alone, any_speaker=False)
    assert caught.value.field == "speaker"

    nobody = dataclasses.replace(MODEL, speakers=("X",))
    with pytest.raises(DataError, match="no other conversation is left"):
        read_unseen(source, nobody, any_speaker=False, skip_bad=True)


def test_missing_and_unknown_inputs(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_unseen(tmp_path / "missing", MODEL)
    with pytest.raises(DataError, match="unknown layout"):
        read_unseen(tmp_path, MODEL)
