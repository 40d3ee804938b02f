"""Every layout is recognised from content and read with the counts that are published."""

from __future__ import annotations

import copy
import csv
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from emojax.data.process import SimulatorConfig
from emojax.data.readers import fingerprint, read_corpus
from emojax.data.readers.csv_table import read_rows, repair
from emojax.data.readers.meld_text import WIDTH, hashed_ngrams
from emojax.errors import DataError


def counts(corpus) -> dict[str, tuple[int, int]]:
    return {name: (len(split), sum(map(len, split))) for name, split in corpus.splits.items()}


def labels(split) -> Counter:
    return Counter(int(label) for each in split for label in each.label)


@pytest.mark.parametrize(
    ("name", "corpus", "layout", "widths", "sizes"),
    [
        ("iemocap_12tuple", "iemocap", "12-tuple", (1024, 1582, 342), (24, 6)),
        ("iemocap_9tuple", "iemocap", "9-tuple", (100, 100, 512), (24, 6)),
        ("meld_13tuple", "meld", "13-tuple", (1024, 300, 342), (18, 6)),
    ],
)
def test_pickle_fixtures(shared: Path, tmp_path: Path, name, corpus, layout, widths, sizes):
    # Under a name that tells nothing.
    path = tmp_path / "x"
    shutil.copyfile(shared / "fixtures" / f"{name}.pkl", path)
    found = read_corpus(path)
    assert found.signature.name == corpus
    assert layout in found.layout
    assert found.signature.widths == widths
    assert (len(found.splits["train"]), len(found.splits["test"])) == sizes
    assert "validation" not in found.splits
    assert found.skipped == ()
    for conversation in found.splits["train"]:
        assert conversation.present.all()
        assert conversation.transcript[0] == f"utterance 0 of {conversation.id}"


def test_mosi(shared: Path):
    corpus = read_corpus(shared / "data" / "mosi")
    assert counts(corpus) == {"train": (62, 1447), "test": (31, 752)}
    assert corpus.signature.widths == (100, 73, 100)
    everyone = [each for split in corpus.splits.values() for each in split]
    assert (min(map(len, everyone)), max(map(len, everyone))) == (9, 63)
    test = labels(corpus.splits["test"])
    assert test[1] / 752 == pytest.approx(0.621, abs=5e-4)
    # Row 40 of the transcripts is the first row of the training tables.
    with (shared / "data" / "mosi" / "transcripts.csv").open(newline="") as stream:
        transcripts = list(csv.reader(stream))
    name, words, _, label = transcripts[39]
    video, number = name.rsplit("_", 1)
    names = [row[0].rsplit("_", 1) for row in transcripts]
    place = sorted(int(n) for v, n in names if v == video).index(int(number))
    first = next(each for each in corpus.splits["train"] if each.id == video)
    assert first.transcript[place] == words
    assert first.label[place] == int(label)
    with (shared / "data" / "mosi" / "audio" / "audio_train0.csv").open(newline="") as stream:
        cells = next(csv.reader(stream))
    np.testing.assert_array_equal(first.audio[place], np.array(cells[:-1], np.float32))


def test_meld_text(shared: Path):
    corpus = read_corpus(shared / "data" / "meld")
    assert counts(corpus) == {"train": (1038, 9989), "validation": (114, 1109), "test": (280, 2610)}
    assert corpus.signature.widths == (WIDTH, 1, 1)
    assert labels(corpus.splits["test"]) == Counter(
        dict(enumerate([1256, 281, 50, 208, 402, 68, 345]))
    )
    assert max(map(len, corpus.splits["test"])) == 33
    for split in corpus.splits.values():
        for each in split:
            assert each.present.tolist() == [[True, False, False]] * len(each)
    assert not any(
        "\x80" <= letter < "\xa0"
        for split in corpus.splits.values()
        for each in split
        for words in each.transcript
        for letter in words
    )


def test_meld_10_tuple(write, meld_content):
    corpus = read_corpus(write(meld_content, "anything.bin", protocol=2))
    assert corpus.layout == "MELD 10-tuple pickle"
    assert [each.id for each in corpus.splits["train"]] == list("01234567")
    assert [each.id for each in corpus.splits["test"]] == ["8", "9", "10", "11"]
    assert corpus.splits["train"][0].speaker[:2].tolist() == [0, 1]


def test_the_end_of_melds_training_ids_is_the_official_development_set(write, meld_content):
    keys = list(range(1038 + 114 + 280))
    content = [{key: copy.deepcopy(field[0]) for key in keys} for field in meld_content[:7]]
    train = keys[:1152]
    random.Random(0).shuffle(train)
    corpus = read_corpus(write([*content, train, keys[1152:], []]))
    assert [each.id for each in corpus.splits["validation"]] == [str(k) for k in range(1038, 1152)]
    assert [len(split) for split in corpus.splits.values()] == [1038, 114, 280]


def test_iemocap_order_and_speakers_do_not_depend_on_a_set(write, iemocap_content):
    corpus = read_corpus(write(iemocap_content))
    ids = [each.id for each in corpus.splits["train"]]
    assert ids[:3] == ["Ses01F_impro01", "Ses01F_impro02", "Ses01F_impro10"]
    assert corpus.splits["train"][0].speaker[:2].tolist() == [0, 1]
    assert corpus.signature.speakers == ("M", "F")


def test_simulated():
    corpus = read_corpus("simulated")
    assert list(corpus.splits) == ["train", "validation", "test"]
    assert corpus.signature.name == "simulated"
    assert fingerprint("simulated") == fingerprint(SimulatorConfig())
    for other in (SimulatorConfig(seed=1), SimulatorConfig(train=10), SimulatorConfig(sarcasm=0.3)):
        assert fingerprint("simulated") != fingerprint(other)


def test_fingerprint_follows_content_alone(shared: Path, tmp_path: Path):
    folder = tmp_path / "elsewhere"
    shutil.copytree(shared / "data" / "mosi", folder)
    assert fingerprint(folder) == fingerprint(shared / "data" / "mosi")
    # A file that is not of the layout does not matter, a changed table does.
    (folder / "notes.txt").write_text("mine")
    assert fingerprint(folder) == fingerprint(shared / "data" / "mosi")
    table = folder / "audio" / "audio_test0.csv"
    table.chmod(0o644)
    table.write_text(table.read_text() + "\n")
    assert fingerprint(folder) != fingerprint(shared / "data" / "mosi")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2, 3], "list of 3 items"),
        ({"a": 1}, "dict"),
        ([{"Ses01": [1]}] * 7 + [[], []][:1], "keyed by str"),
        ([{1: [1]}] * 7 + [[], []], "keyed by int"),
    ],
)
def test_an_unknown_layout_lists_the_known_ones(write, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read_corpus(write(content))
    for known in ("12-tuple", "9-tuple", "13-tuple", "10-tuple", "MELD text", "MOSI"):
        assert known in str(caught.value)


def test_unknown_folders_and_missing_paths(tmp_path: Path):
    with pytest.raises(DataError, match="folder of an unknown layout"):
        read_corpus(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        read_corpus(tmp_path / "nothing")


def spoil(content, key, place, change):
    content[place][key] = change(content[place][key])


SPOILED = {
    "nan": (3, lambda v: [v[0] * np.nan, *v[1:]], "text", "NaN"),
    "infinite": (4, lambda v: [*v[:-1], v[-1] / 0], "audio", "infinite"),
    "too large for float32": (5, lambda v: [v[0] * 1e300, *v[1:]], "visual", "infinite"),
    "shorter": (3, lambda v: v[:-1], "text", "utterances"),
    "one width": (4, lambda v: [v[0][:-1], *v[1:]], "audio", "width"),
    "all widths": (4, lambda v: [row[:-1] for row in v], "audio", "wide"),
    "no vector": (4, lambda v: [None, *v[1:]], "audio", "vector"),
    "nested lists": (4, lambda v: [[[1.0]], *v[1:]], "audio", "vector"),
    "a number": (4, lambda v: 3, "audio", "int where"),
    "unknown label": (2, lambda v: [6, *v[1:]], "label", "label 6"),
    "half a label": (2, lambda v: [0.5, *v[1:]], "label", "0.5"),
    "huge label": (2, lambda v: [10**4000, *v[1:]], "label", "class index"),
    "unknown speaker": (1, lambda v: ["X", *v[1:]], "speaker", "'X'"),
    "unknown words": (6, lambda v: [None, *v[1:]], "transcript", "words"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_bad_conversation_is_named_or_set_aside(write, iemocap_content, name):
    key = "Ses02F_impro02"
    place, change, field, problem = SPOILED[name]
    with np.errstate(all="ignore"):
        spoil(iemocap_content, key, place, change)
    path = write(iemocap_content)
    with pytest.raises(DataError, match=problem) as caught:
        read_corpus(path)
    error = caught.value
    assert (error.file, error.conversation) == (str(path), key)
    assert error.field == field
    corpus = read_corpus(path, skip_bad=True)
    assert [each.conversation for each in corpus.skipped] == [key]
    assert key not in [each.id for each in corpus.splits["train"]]
    assert len(corpus.splits["train"]) == 23


def test_empty_conversations(write, iemocap_content):
    for place in range(7):
        iemocap_content[place]["Ses02F_impro02"] = []
    with pytest.raises(DataError, match=r"Ses02F_impro02.*no utterances"):
        read_corpus(write(iemocap_content))


def test_the_first_dialogue_is_not_taken_for_the_rule(write, iemocap_content):
    first = "Ses01F_impro01"
    spoil(iemocap_content, first, 3, lambda v: [row[:-1] for row in v])
    corpus = read_corpus(write(iemocap_content), skip_bad=True)
    assert [each.conversation for each in corpus.skipped] == [first]
    assert corpus.signature.widths[0] == 5


def test_a_dialogue_in_two_splits_stays_in_the_test(write, iemocap_content):
    iemocap_content[7].add("Ses05M_impro01")
    path = write(iemocap_content)
    with pytest.raises(DataError, match=r"two splits, test and train"):
        read_corpus(path)
    corpus = read_corpus(path, skip_bad=True)
    assert [len(split) for split in corpus.splits.values()] == [24, 6]


def test_missing_dialogues_and_speakers(write, iemocap_content, meld_content):
    del iemocap_content[4]["Ses03M_impro01"]
    with pytest.raises(DataError, match=r"Ses03M_impro01.*audio.*no entry"):
        read_corpus(write(iemocap_content))
    meld_content[1][3][0] = [0.5] * 9
    with pytest.raises(DataError, match=r"'3'.*speaker.*one-hot"):
        read_corpus(write(meld_content))


def test_file_level_errors_are_raised_even_when_skipping(write, iemocap_content, meld_content):
    train, iemocap_content[7] = iemocap_content[7], set()
    with pytest.raises(DataError, match="no conversation for the train split"):
        read_corpus(write(iemocap_content), skip_bad=True)
    iemocap_content[7] = [*train, 3]
    with pytest.raises(DataError, match="train ids"):
        read_corpus(write(iemocap_content), skip_bad=True)
    iemocap_content[7] = [*train, "1" * 6000]
    with pytest.raises(DataError, match="train ids"):
        read_corpus(write(iemocap_content), skip_bad=True)
    meld_content[3] = {key: [] for key in meld_content[3]}
    with pytest.raises(DataError, match="no dialogue has features"):
        read_corpus(write(meld_content), skip_bad=True)


def test_shared_memory_does_not_unfold(write, iemocap_content):
    """A row of 8 kB, named 200 000 times: a small file, 1.6 GB of features."""
    row = np.zeros(1000).tolist()
    key = "Ses01F_impro01"
    iemocap_content[3] = {
        each: [row] * len(iemocap_content[2][each]) for each in iemocap_content[3]
    }
    iemocap_content[3][key] = [row] * 200_000
    iemocap_content[8] = [key]
    iemocap_content[7].remove(key)
    with pytest.raises(DataError, match="more content than its size"):
        read_corpus(write(iemocap_content))
    nested: list = [0.0]
    for _ in range(60):
        nested = [nested, nested]
    iemocap_content[3] = {each: [nested] for each in iemocap_content[3]}
    with pytest.raises(DataError, match="vector of real numbers"):
        read_corpus(write(iemocap_content))


def test_noise_in_pickles_is_a_data_error_or_a_corpus(write, meld_content, tmp_path: Path):
    data = write(meld_content, protocol=2).read_bytes()
    path = tmp_path / "noise"
    rng = random.Random(5)
    refused = 0
    for _ in range(150):
        noisy = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            noisy[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(noisy)
        try:
            read_corpus(path, skip_bad=rng.random() < 0.5)
        except DataError:
            refused += 1
    assert 10 < refused < 150


@pytest.fixture
def mosi(shared: Path, tmp_path: Path) -> Path:
    """A copy of the real folder that may be spoiled."""
    folder = tmp_path / "mosi"
    shutil.copytree(shared / "data" / "mosi", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    return folder


def edit(path: Path, row: int, cell: int, value: str) -> None:
    table = read_rows(path)
    table[row][cell] = value
    with path.open("w", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows(table)


def test_mosi_tables_that_do_not_fit_together(mosi: Path):
    edit(mosi / "audio" / "audio_train0.csv", 0, -1, "0")
    with pytest.raises(DataError, match=r"1DmNV9C1hbY.*label.*0 and 1"):
        read_corpus(mosi)
    assert len(read_corpus(mosi, skip_bad=True).splits["train"]) == 61


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "many", ""])
def test_mosi_cells_that_are_no_finite_number(mosi: Path, value: str):
    edit(mosi / "video" / "video_test0.csv", 100, 3, value)
    with pytest.raises(DataError, match="visual") as caught:
        read_corpus(mosi)
    assert caught.value.conversation
    skipped = read_corpus(mosi, skip_bad=True).skipped
    assert [each.conversation for each in skipped] == [caught.value.conversation]


@pytest.mark.parametrize("value", ["-1", "2199", "x", "9" * 5000])
def test_mosi_row_numbers_out_of_range(mosi: Path, value: str):
    edit(mosi / "text_train.csv", 7, 0, value)
    with pytest.raises(DataError, match=r"text_train\.csv.*row 8"):
        read_corpus(mosi, skip_bad=True)


def test_mosi_truncated_and_missing_tables(mosi: Path):
    path = mosi / "text" / "text_train0.csv"
    data = path.read_bytes()
    rng = random.Random(0)
    for offset in [0, *(rng.randrange(len(data) - 2) for _ in range(4))]:
        path.write_bytes(data[:offset])
        with pytest.raises(DataError, match="text_train0"):
            read_corpus(mosi)
    path.unlink()
    with pytest.raises(DataError, match=r"text_train0.*missing"):
        read_corpus(mosi)


@pytest.fixture
def meld(shared: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "meld"
    folder.mkdir()
    for path in (shared / "data" / "meld").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def test_meld_repairs_mis_encoded_quotes(meld: Path):
    before = read_corpus(meld)
    path = meld / "dev_sent_emo.csv"
    data = path.read_bytes()
    for damaged in (b"\x92", "\x92".encode(), "â€™".encode()):
        path.write_bytes(data.replace("’".encode(), damaged))
        after = read_corpus(meld)
        assert after.splits["validation"][0].transcript[0].startswith("Oh my God, he’s lost it")
        for a, b in zip(before.splits["validation"], after.splits["validation"], strict=True):
            assert a.transcript == b.transcript
            np.testing.assert_array_equal(a.text, b.text)


def test_meld_order_gaps_and_other_speakers(meld: Path):
    path = meld / "dev_sent_emo.csv"
    header, *table = read_rows(path)
    random.Random(0).shuffle(table)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *table])
    corpus = read_corpus(meld)
    first = corpus.splits["validation"][0]
    assert first.transcript[1] == "What?"
    dialogues = {row[header.index("Dialogue_ID")] for row in table}
    assert len(corpus.splits["validation"]) == len(dialogues)
    main = Counter(row[header.index("Speaker")] for row in table)
    speakers = Counter(int(s) for each in corpus.splits["validation"] for s in each.speaker)
    assert speakers[0] == main["Joey"]
    assert speakers[6] == len(table) - sum(
        main[name] for name in ("Joey", "Ross", "Rachel", "Phoebe", "Monica", "Chandler")
    )


def test_meld_wrong_rows(meld: Path):
    path = meld / "test_sent_emo.csv"
    data = path.read_text(encoding="utf-8")
    path.write_text(data.replace(",surprise,", ",bored,", 1), encoding="utf-8")
    with pytest.raises(DataError, match=r"test_0.*label.*bored"):
        read_corpus(meld)
    assert [e.conversation for e in read_corpus(meld, skip_bad=True).skipped] == ["test_0"]
    path.write_text(data.replace("Dialogue_ID", "Dialogue", 1), encoding="utf-8")
    with pytest.raises(DataError, match="no column Dialogue_ID"):
        read_corpus(meld, skip_bad=True)
    path.write_text(data[: len(data) // 2], encoding="utf-8")
    with pytest.raises(DataError, match=r"test_sent_emo\.csv"):
        read_corpus(meld, skip_bad=True)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="zero bytes"):
        read_corpus(meld, skip_bad=True)
    path.unlink()
    with pytest.raises(DataError, match=r"test_sent_emo\.csv.*missing"):
        read_corpus(meld, skip_bad=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(write, iemocap_content):
    path = write(iemocap_content)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_corpus(path)


def test_hashed_ngrams_are_signed_counts_of_length_one():
    import zlib

    expected = np.zeros(WIDTH)
    for gram in ("you're", "so", "so", "you're so", "so so"):
        code = zlib.crc32(gram.encode())
        expected[code & 511] += 1 if code & 0x80000000 else -1
    np.testing.assert_allclose(
        hashed_ngrams("You’re so, so!"), expected / np.linalg.norm(expected), atol=1e-7
    )
    assert np.linalg.norm(hashed_ngrams("one two three")) == pytest.approx(1, abs=1e-6)
    assert not hashed_ngrams("?!").any()
    assert hashed_ngrams("x").dtype == np.float32


def test_repair_leaves_sound_text_alone():
    sound = "“Café” – naïve… l’été, 5 €, Ärger"
    assert repair(sound) == sound


def test_json_lines_are_told_what_they_are_for(tmp_path):
    path = tmp_path / "conversations.jsonl"
    path.write_text('\n {"id": "a", "utterances": []}\n')
    with pytest.raises(
        DataError, match=r"emojax predict RUN FILE.*no splits to train on"
    ) as caught:
        read_corpus(path)
    assert str(path) in str(caught.value)
