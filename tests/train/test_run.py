"""Folders that cannot be written, disks that fill up: one clear line, and nothing saved is lost."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from emojax.data.prepare import open_prepared
from emojax.errors import CheckpointError, ConfigError, DataError
from emojax.train.alone import alone
from emojax.train.run import create_run, open_run, read_run
from tests.train.runs import VARIANTS, cli, cli_until, complete, config, outcome, settings


def the_error(done) -> str:
    """The one line on stderr of a command that failed as it should."""
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_full_disk(corpus, undisturbed, tmp_path):
    """First the checkpoints find no room, then not even the metrics do."""
    expected = outcome(undisturbed("averaged"))
    folder = tmp_path / "run"
    last = folder / "checkpoints" / "last"
    arguments = settings(corpus, VARIANTS["averaged"])
    done = cli_until("full6000@last begun#2", "train", "--out", folder, *arguments)
    error = the_error(done)
    assert error.startswith(f"error: {last}: the checkpoint cannot be written: ")
    assert "File too large" in error
    assert "Complete checkpoints stay (steps: 4). " in error
    assert complete(last) == [4]

    done = cli_until("full1000@start", "train", "--out", folder, "--resume")
    assert "File too large" in the_error(done)
    assert complete(last) == [4]

    assert cli("train", "--out", folder, "--resume").stderr == ""
    assert outcome(folder) == expected


@pytest.fixture
def small_disk(tmp_path):
    """(size in KiB) -> folder that is a disk of its own; with 0 it becomes read-only."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int):
        options = f"size={size}k" if size else "remount,ro"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=20)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a file system is not permitted here")
        return place

    yield mount
    subprocess.run(["umount", str(place)], check=False, capture_output=True, timeout=20)


def test_a_disk_that_is_really_full(corpus, undisturbed, small_disk):
    """There is room for two checkpoints of the series but not for the third."""
    finished = undisturbed("plain") / "checkpoints"
    folder = small_disk(kib(finished / "best") + kib(finished / "last") * 5 // 4) / "run"
    last = folder / "checkpoints" / "last"
    done = cli("train", "--out", folder, *settings(corpus))
    assert "No space left on device" in the_error(done)
    kept = complete(last)
    assert kept

    small_disk(0)
    done = cli("train", "--out", folder, "--resume")
    assert "Read-only file system" in the_error(done)
    assert complete(last) == kept


def kib(folder: Path) -> int:
    """What a folder takes on a tmpfs, in KiB: whole pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // 4096) * 4 for size in sizes)


def test_a_run_below_a_file(corpus, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    error = the_error(cli("train", "--out", folder, *settings(corpus)))
    assert error.startswith(f"error: {folder}: the run cannot be written here: ")
    assert "Not a directory" in error


def test_a_second_run_in_the_same_folder_is_refused(corpus, tmp_path):
    create_run(tmp_path / "run", config(corpus))
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a run already"):
        create_run(tmp_path / "run", config(corpus, {"train.epochs": 9}))
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_a_run_is_opened_as_it_was_created(corpus, tmp_path):
    chosen = config(corpus, {"train.ema_decay": 0.5, "train.patience": 3})
    made = create_run(tmp_path / "run", chosen)
    found = open_run(tmp_path / "run")
    assert found.config == made.config == chosen
    assert found.model == made.model
    assert found.corpus.hashes == made.corpus.hashes
    assert read_run(tmp_path / "run")[1] == open_prepared(corpus).signature


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"config": {}}', b"\xff\xfe", b'{"config": {"train": {"epochs": "x"}}}'],
    ids=["empty", "cut", "list", "fields missing", "not text", "bad config"],
)
def test_a_damaged_description(content, corpus, tmp_path):
    create_run(tmp_path / "run", config(corpus))
    file = tmp_path / "run" / "run.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read"):
        open_run(tmp_path / "run")


def test_no_run_here(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run here"):
        open_run(tmp_path)


def test_a_corpus_that_is_gone_or_another(corpus, tmp_path):
    create_run(tmp_path / "run", config(corpus))
    file = tmp_path / "run" / "run.json"
    content = json.loads(file.read_text())
    content["corpus"]["hashes"]["train"]["content"] = "0" * 64
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="is not the one this run was started on"):
        open_run(tmp_path / "run")
    content["corpus"]["path"] = str(tmp_path / "nowhere")
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no prepared corpus here"):
        open_run(tmp_path / "run")


def test_two_processes_do_not_train_in_one_folder(corpus, tmp_path):
    run = create_run(tmp_path / "run", config(corpus))
    with alone(run.folder):
        done = cli("train", "--out", run.folder, "--resume")
        assert done.returncode == 1
        assert f"error: {run.folder} is being trained by another process" in done.stderr
    assert not complete(run.last)
    with alone(run.folder):
        pass
