"""Preparing is atomic, idempotent and says clearly what is wrong."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emojax.data.builders import VERSION
from emojax.data.prepare import open_prepared, prepare
from emojax.data.readers import read_corpus
from emojax.data.simulator import SimulatorConfig
from emojax.data.splits import content_hash, make_splits, splits_hash
from emojax.errors import ConfigError, DataError


@pytest.fixture
def source(write, iemocap_content) -> Path:
    return write(iemocap_content)


def test_what_is_prepared_is_what_was_read(source: Path, tmp_path: Path, same):
    corpus = prepare(source, tmp_path / "data")
    assert corpus.layout == "IEMOCAP 9-tuple pickle"
    assert corpus.signature == read_corpus(source).signature
    assert corpus.split_rule == "official"
    for split, expected in make_splits(read_corpus(source)).items():
        stored = corpus.split(split)
        assert len(stored) == len(expected)
        assert corpus.ids(split) == tuple(each.id for each in expected)
        lengths = corpus.lengths(split)
        assert lengths.dtype == np.int32
        assert lengths.tolist() == [len(each) for each in expected]
        for index in random.Random(0).sample(range(len(expected)), len(expected)):
            same(stored[index], expected[index])
        same(stored[-1], expected[-1])
        with pytest.raises(IndexError):
            stored[len(expected)]
        assert corpus.hashes[split] == {
            "ids": splits_hash(corpus.ids(split)),
            "content": content_hash(stored),
        }
        same(pickle.loads(pickle.dumps(stored))[0], expected[0])
    with pytest.raises(DataError, match="no split 'dev'"):
        corpus.split("dev")


def test_mosi_end_to_end(shared: Path, tmp_path: Path):
    corpus = prepare(shared / "data" / "mosi", tmp_path)
    sizes = {split: (len(corpus.ids(split)), int(corpus.lengths(split).sum()))
             for split in ("train", "validation", "test")}  # fmt: skip
    assert sizes["test"] == (31, 752)
    assert (sizes["train"][0], sizes["validation"][0]) == (52, 10)
    assert sizes["train"][1] + sizes["validation"][1] == 1447


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_same_again_is_reused_and_a_change_is_not(source: Path, tmp_path: Path, write):
    data = tmp_path / "data"
    first = prepare(source, data)
    before = files(data)
    assert prepare(str(source), data).path == first.path
    # Another place and name, the same content.
    moved = tmp_path / "moved"
    shutil.copyfile(source, moved)
    assert prepare(moved, data).path == first.path
    assert files(data) == before

    content = pickle.loads(source.read_bytes())
    content[3]["Ses01F_impro01"][0][0] += 1
    second = prepare(write(content), data)
    assert second.path != first.path
    assert second.hashes["test"] == first.hashes["test"]
    together = {"train", "validation"}
    assert {s for s in together if second.hashes[s]["content"] != first.hashes[s]["content"]}
    by_session = prepare(source, data, split_rule="leave-one-session-out:3")
    assert by_session.split_rule == "leave-one-session-out:3"
    assert {name[:5] for name in by_session.ids("test")} == {"Ses03"}
    assert len(prepare(source, data, validation_fraction=0.5).ids("validation")) == 12
    assert files(data).items() >= before.items()


def test_a_simulator_config_is_a_source(tmp_path: Path):
    config = SimulatorConfig(train=4, validation=2, test=2)
    first = prepare(config, tmp_path)
    assert prepare(config, tmp_path).path == first.path
    other = prepare(SimulatorConfig(train=4, validation=2, test=2, seed=1), tmp_path)
    assert other.path != first.path
    assert len(first.split("train")) == 4


def test_skipped_conversations_are_remembered(write, iemocap_content, tmp_path: Path):
    iemocap_content[4]["Ses02F_impro02"][0][1] = np.nan
    source = write(iemocap_content)
    with pytest.raises(DataError, match=r"Ses02F_impro02.*audio.*NaN"):
        prepare(source, tmp_path / "data")
    corpus = open_prepared(prepare(source, tmp_path / "data", skip_bad=True).path)
    assert [(e.conversation, e.field) for e in corpus.skipped] == [("Ses02F_impro02", "audio")]
    assert "NaN" in corpus.skipped[0].problem
    assert "Ses02F_impro02" not in corpus.ids("train") + corpus.ids("validation")


def test_opening(source: Path, tmp_path: Path):
    data = tmp_path / "data"
    with pytest.raises(DataError, match="no prepared corpus"):
        open_prepared(data)
    path = prepare(source, data).path
    for place in (data, path.parent.parent, path.parent, path, str(path)):
        assert open_prepared(place).path == path
    prepare(source, data, validation_fraction=0.2)
    with pytest.raises(DataError, match="2 prepared corpora") as caught:
        open_prepared(data)
    assert str(path.relative_to(data)) in str(caught.value)


def test_impossible_options(source: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="split rule"):
        prepare(source, tmp_path / "data", split_rule="leave-two-out")
    with pytest.raises(ConfigError, match="validation_fraction"):
        prepare(source, tmp_path / "data", validation_fraction=1.5)
    assert not (tmp_path / "data").exists() or not list((tmp_path / "data").rglob("*.json"))


def test_an_unwritable_folder(source: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot write"):
        prepare(source, tmp_path / "file")


RUN = """
import os, resource, signal, sys
from emojax.data.prepare import prepare
from emojax.data.simulator import SimulatorConfig
from emojax.errors import DataError

how, limit, data = sys.argv[1:]

def watch(event, arguments):
    if event == how and str(arguments[0]).endswith(limit):
        os.kill(os.getpid(), signal.SIGKILL)

if how == "size":
    import tensorflow_datasets
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
elif how:
    sys.addaudithook(watch)
try:
    print(prepare(SimulatorConfig(train=40, validation=5, test=5), data).path)
except DataError as error:
    print(error)
    sys.exit(1)
"""


def run(how: str, limit: str, data: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, how, limit, data], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("event", "place"),
    [
        ("open", "features.json"),
        ("open", "metadata.json"),
        ("open", "dataset_info.json"),
        ("os.rename", f"_{VERSION}"),
    ],
)
def test_killed_in_the_middle(tmp_path: Path, event: str, place: str):
    killed = run(event, place, tmp_path)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.rglob("incomplete.*")), "it was killed while it wrote"
    with pytest.raises(DataError, match="no prepared corpus"):
        open_prepared(tmp_path)
    corpus = prepare(SimulatorConfig(train=40, validation=5, test=5), tmp_path)
    assert content_hash(corpus.split("train")) == corpus.hashes["train"]["content"]
    assert not list(tmp_path.rglob("incomplete.*"))


@pytest.mark.parametrize("limit", [200, 50_000])
def test_a_full_disk(tmp_path: Path, limit: int):
    """A limit on the size of files stands for it: the same calls fail in the same places."""
    process = run("size", str(limit), tmp_path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "cannot write the prepared corpus" in output
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert len(prepare(SimulatorConfig(train=4, validation=1, test=1), tmp_path).ids("train")) == 4


def test_two_at_once_make_one(tmp_path: Path):
    both = [run("", "", tmp_path) for _ in range(2)]
    paths = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(paths) == 1
    assert open_prepared(tmp_path).path == Path(paths.pop().strip())


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "half", "flipped", "exchanged"])
def test_damaged_records(tmp_path: Path, damage: str):
    corpus = prepare(SimulatorConfig(train=40, validation=5, test=40), tmp_path)
    (path,) = corpus.path.glob("*-train.array_record*")
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "flipped":
        for place in range(65536, len(data), 997):
            data[place] ^= 0xFF
        path.write_bytes(data)
    elif damage == "exchanged":
        (test,) = corpus.path.glob("*-test.array_record*")
        shutil.copyfile(test, path)
    else:
        path.write_bytes(data[: {"empty": 0, "short": 1000, "half": len(data) // 2}[damage]])
    with pytest.raises(DataError, match="prepare the corpus again") as caught:
        list(open_prepared(tmp_path).split("train"))
    assert caught.value.file == str(path)


@pytest.mark.parametrize("name", ["dataset_info.json", "metadata.json", "features.json"])
@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_descriptions(tmp_path: Path, name: str, content: str):
    corpus = prepare(SimulatorConfig(train=4, validation=1, test=1), tmp_path)
    (corpus.path / name).write_text(content)
    with pytest.raises(DataError, match="description"):
        open_prepared(corpus.path)


def test_a_description_of_fewer_records(tmp_path: Path):
    corpus = prepare(SimulatorConfig(train=4, validation=1, test=1), tmp_path)
    path = corpus.path / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["splits"]["train"]["ids"].pop()
    path.write_text(json.dumps(metadata))
    with pytest.raises(DataError, match="4 records instead of 3"):
        open_prepared(corpus.path).split("train")


def test_nothing_is_printed_where_nobody_looks(source: Path, tmp_path: Path, capfd):
    prepare(source, tmp_path / "data")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_a_progress_bar_on_a_terminal(source: Path, tmp_path: Path):
    import os
    import pty

    code = "import sys; from emojax.data.prepare import prepare; prepare(*sys.argv[1:])"
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, source, tmp_path / "data"],
        stdout=slave,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    try:
        while chunk := os.read(master, 65536):
            shown += chunk
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(master)
    assert process.wait(timeout=60) == 0
    assert b"Preparing IEMOCAP 9-tuple pickle" in shown
