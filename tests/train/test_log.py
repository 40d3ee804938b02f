"""What a run says while it trains: files that parse, and a terminal that shows how far it is."""

from __future__ import annotations

import json
import os
import pty
import re
import struct
import threading

import pytest

from emojax.errors import CheckpointError
from emojax.train.log import MetricLog
from tests.train.runs import (
    cli,
    events,
    log_lines,
    scalars,
    settings,
    start,
)


def numbers(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def as_float32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]


def test_json_lines_and_tensorboard_say_the_same(undisturbed):
    folder = undisturbed("plain")
    lines = [json.loads(line) for line in log_lines(folder)]
    steps = [line for line in lines if "loss" in line]
    epochs = [line for line in lines if "validation" in line]
    assert [line["step"] for line in steps] == list(range(15))
    assert [line["step"] for line in epochs] == [5, 10, 15]
    assert all({"loss", "gradient_norm", "learning_rate"} <= line.keys() for line in steps)

    expected = {
        (name, line["step"]): as_float32(value)
        for line in lines
        for name, value in numbers(line)
        if name != "step"
    }
    assert scalars(folder) == expected
    assert ("validation/weighted_f1", 15) in expected


def test_rewinding_forgets_what_came_after(tmp_path):
    log = MetricLog(tmp_path)
    log.rewind(0, 0)
    log.write(0, {"loss": 2.0})
    log.write(1, {"seen": 1.0})
    size = log.flush()
    log.write(1, {"loss": 1.0})
    log.write(2, {"loss": 0.5})
    log.close()

    log = MetricLog(tmp_path)
    log.rewind(size, 1)
    assert log.flush() == size
    log.write(1, {"loss": 0.25, "kinds": {"a": 3}})
    log.close()
    assert [json.loads(line) for line in log_lines(tmp_path)] == [
        {"step": 0, "loss": 2.0}, {"step": 1, "seen": 1.0},
        {"step": 1, "loss": 0.25, "kinds": {"a": 3}},
    ]  # fmt: skip
    assert scalars(tmp_path) == {
        ("loss", 0): 2.0, ("seen", 1): 1.0, ("loss", 1): 0.25, ("kinds/a", 1): 3.0
    }  # fmt: skip


def test_a_log_that_was_lost_is_begun_anew(tmp_path):
    log = MetricLog(tmp_path)
    log.rewind(1000, 7)
    log.write(7, {"loss": 1.0})
    log.close()
    assert log_lines(tmp_path) == ['{"step": 7, "loss": 1.0}']


def test_nothing_written_leaves_no_event_file(tmp_path):
    log = MetricLog(tmp_path)
    log.rewind(0, 3)
    log.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_restart_says_from_where(tmp_path):
    log = MetricLog(tmp_path)
    log.rewind(0, 3)
    log.write(3, {"loss": 1.0})
    log.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    version, restart, _ = events(file)
    assert version.file_version == "brain.Event:2"
    assert restart.step == 4


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"the metrics cannot be written: .*Is a directory"):
        MetricLog(tmp_path)


def test_plain_lines_when_nobody_watches(undisturbed):
    said = undisturbed("plain").with_name("said").read_text(encoding="utf-8")
    *epochs, end = said.splitlines()
    assert said.replace("\n", "").isprintable()
    pattern = r"epoch +\d/3  loss \d\.\d{4}  validation weighted_f1 \d\.\d{4} [ *]  [\d,]+ conv.*/s"
    assert [bool(re.fullmatch(pattern, line)) for line in epochs] == [True] * 3
    assert end.startswith("Best validation weighted_f1: ")


def test_nothing_at_all_when_quiet(undisturbed):
    done = cli("train", "--out", undisturbed("plain"), "--resume", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_progress_bar_on_a_terminal(corpus, undisturbed, tmp_path):
    undisturbed("plain")  # compiled
    outside, inside = pty.openpty()
    said = bytearray()

    def listen() -> None:
        while True:
            try:
                part = os.read(outside, 1 << 16)
            except OSError:  # what Linux says when the other side is closed
                return
            if not part:
                return
            said.extend(part)

    # A second per epoch, so that there is something to see between the epochs.
    process = start(
        "slow@step#8", "train", "--out", tmp_path / "run", *settings(corpus),
        module="tests.train.disturb", stdout=inside, stderr=inside,
        variables={"TERM": "xterm-256color", "COLUMNS": "140", "LINES": "30"},
    )  # fmt: skip
    os.close(inside)
    listener = threading.Thread(target=listen)
    listener.start()
    assert process.wait(timeout=200) == 0
    listener.join(timeout=20)
    os.close(outside)

    text = said.decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    bar = r"epoch 2/3 ━+.* loss \d\.\d{4}  validation weighted_f1 \d\.\d{4}  [\d,]+ conversations/s"
    assert re.search(bar + r" \d:\d\d:\d\d", plain), plain
    # The bar goes when it is done; a line per epoch stays.
    assert re.findall(r"epoch   (\d)/3  loss", plain) == ["1", "2", "3"]
