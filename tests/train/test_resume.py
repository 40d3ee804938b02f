"""Whatever happens to a run on its way, resuming it gives what an undisturbed run gives.

The runs are processes of the command line; an epoch is five steps.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time

import pytest

from emojax.data.prepare import prepare
from tests.train.conftest import SMALL
from tests.train.runs import VARIANTS, cli, cli_until, complete, outcome, settings, start

# Each goes on where the one before was killed.
KILLS = {
    "plain": [
        "kill@start",
        "kill@last begun",
        "kill@between best and last",
        "kill@last named",
        "slow@best named,kill@first complete",
        "kill@evaluation",
        "kill@old removed",
    ],
    "averaged": [
        "kill@best named",
        "slow@best named,kill@old removed",
        "kill@step#2",
        "kill@last inside",
    ],
}


@pytest.mark.parametrize("variant", KILLS)
def test_killed_at_any_moment(variant, corpus, undisturbed, tmp_path):
    expected = outcome(undisturbed(variant))
    folder = tmp_path / "run"
    train = ("train", "--out", folder)
    last, best = folder / "checkpoints" / "last", folder / "checkpoints" / "best"
    arguments = settings(corpus, VARIANTS[variant])
    for moment in KILLS[variant]:
        done = cli_until(moment, *train, *arguments)
        assert done.returncode == -signal.SIGKILL, (moment, done.stdout, done.stderr)
        arguments = ["--resume"]
        if moment == "kill@between best and last":
            assert (complete(last), complete(best)) == ([], [5])
        if moment == "kill@last named":
            # Written to its end, but without its name it does not count.
            assert complete(last) == []
            assert list(last.glob("5.orbax-checkpoint-tmp*/tree/_METADATA"))

    done = cli(*train, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert outcome(folder) == expected


def test_sigterm_before_training_exits_with_143_too(corpus, tmp_path):
    done = cli_until("term@preparation", "train", "--out", tmp_path / "run", *settings(corpus))
    assert (done.returncode, done.stderr) == (143, "")


def test_sigterm_saves_and_exits_with_143(corpus, undisturbed, tmp_path):
    expected = outcome(undisturbed("averaged"))
    folder = tmp_path / "run"
    train = ("train", "--out", folder)

    done = cli_until("term@start", *train, *settings(corpus, VARIANTS["averaged"]))
    assert (done.returncode, stopped_at(done)) == (143, 0)

    process = start("hold@step#4", *train, "--resume", module="tests.train.disturb")
    assert process.stderr.readline() == "ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    out, err = process.communicate(timeout=100)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert done.returncode == 143
    assert complete(folder / "checkpoints" / "last")[-1] == stopped_at(done) > 0

    done = cli(*train, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert outcome(folder) == expected


def stopped_at(done) -> int:
    """The step of the one line that an interrupted run says on stderr."""
    return int(re.fullmatch(r"stopped at step (\d+); resume with --resume\n", done.stderr)[1])


def test_damaged_newest_checkpoints_are_made_again(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed("averaged"), tmp_path / "run")
    newest = folder / "checkpoints" / "last" / "15"
    for series in ("last", "best"):
        for file in (folder / "checkpoints" / series).glob("15/**/d/*"):
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
    assert complete(folder / "checkpoints" / "best") == [15]

    done = cli("train", "--out", folder, "--resume")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {newest}: this checkpoint is damaged and is not used")
    assert outcome(folder) == outcome(undisturbed("averaged"))
    assert (folder / "checkpoints" / "last" / "damaged-0-15").is_dir()


def test_all_checkpoints_damaged(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed("plain"), tmp_path / "run")
    last = folder / "checkpoints" / "last"
    for file in last.glob("*/**/manifest.ocdbt"):
        file.write_bytes(b"")
    done = cli("train", "--out", folder, "--resume")
    *warned, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert error.startswith(f"error: {last}: every checkpoint is damaged (steps: 10, 15)")
    assert [line.partition(": this")[0] for line in warned] == [
        f"warning: {last / step}" for step in ("15", "10")
    ]
    assert complete(last) == [10, 15]


def test_nothing_changes_when_a_finished_run_is_resumed(undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed("averaged"), tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = cli("train", "--out", folder, "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_other_settings_are_refused(undisturbed, corpus):
    folder = undisturbed("plain")
    arguments = settings(corpus, {"train.epochs": 4})
    done = cli("train", "--out", folder, "--resume", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {folder} was started with other settings. ")
    assert done.stderr.count("\n") == 1

    done = cli("train", "--out", folder, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {folder} holds a run already. ")
    assert done.stderr.count("\n") == 1


def test_the_corpus_must_be_the_same(corpus, undisturbed, tmp_path):
    other = prepare(SMALL.__class__(**{**vars(SMALL), "seed": 1}), tmp_path / "data").path
    folder = shutil.copytree(undisturbed("plain"), tmp_path / "run")
    content = json.loads((folder / "run.json").read_text())
    content["corpus"]["path"] = str(other)
    (folder / "run.json").write_text(json.dumps(content))
    done = cli("train", "--out", folder, "--resume")
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: {other}: the corpus is not the one this run was started on. "
    )
