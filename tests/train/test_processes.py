"""Several real processes train as one: the same losses, the same place in the data, one end."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.train.runs import VARIANTS, cli, complete, log_lines, settings, start

TIMEOUT = 20
"""Seconds without a sign of life after which a process is given up in these tests."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(
    count: int, *arguments: Any, moments: dict[int, str] | None = None, cache: Path | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """`emojax train ARGUMENTS` in as many processes; to some of them something happens, see
    `tests.train.disturb`. A cache is theirs alone."""
    address = f"127.0.0.1:{free_port()}"
    processes = []
    for index in range(count):
        moment = (moments or {}).get(index)
        command = (
            *([moment] if moment else []), "train", *arguments, "--coordinator", address,
            "--processes", count, "--process", index, "--timeout", TIMEOUT,
        )  # fmt: skip
        module = "tests.train.disturb" if moment else "emojax"
        variables = {} if cache is None else {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }  # fmt: skip
        processes.append(start(*command, module=module, variables=variables))
    done = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=200)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return done


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_lines(folder)]


def assert_same_training(folder: Path, expected: Path) -> None:
    """Every step and epoch, in order, with the same losses and scores."""
    ours, theirs = records(folder), records(expected)
    assert [each.keys() for each in ours] == [each.keys() for each in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["step"], mine["epoch"]) == (other["step"], other["epoch"])
        for name in ("loss", "gradient_norm", "train_loss"):
            if name in other:
                np.testing.assert_allclose(mine[name], other[name], rtol=1e-5)
        if "validation" in other:
            np.testing.assert_allclose(
                mine["validation"]["nll"], other["validation"]["nll"], rtol=1e-4
            )
    steps = complete(expected / "checkpoints" / "last")
    assert complete(folder / "checkpoints" / "last") == steps


@dataclasses.dataclass
class Interrupted:
    """A run of two processes, both times both of them: stopped, resumed, and then bereft of one.

    Attributes:
      stopped, bereft: the processes, ended; in each sitting something happened to the second.
      step: of the newest checkpoint when both were stopped.
      seconds: of the second sitting, compilation included.
    """

    folder: Path
    stopped: list[subprocess.CompletedProcess[str]]
    step: int
    bereft: list[subprocess.CompletedProcess[str]]
    seconds: float


@pytest.fixture(scope="module")
def interrupted(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    arguments = ("--out", folder, *settings(corpus, VARIANTS["bare"]))
    cache = tmp_path_factory.mktemp("cache")
    stopped = together(2, *arguments, moments={1: "term@step#2"}, cache=cache)
    step = complete(folder / "checkpoints" / "last")[-1]
    began = time.monotonic()
    moments = {1: "kill@step#4"}
    bereft = together(2, "--out", folder, "--resume", moments=moments, cache=cache)
    return Interrupted(folder, stopped, step, bereft, time.monotonic() - began)


def test_sigterm_to_one_process_stops_all_at_the_same_step(interrupted):
    done = interrupted.stopped
    assert [each.returncode for each in done] == [143, 143], [each.stderr for each in done]
    said = re.search(r"stopped at step (\d+); resume with --resume\n", done[0].stderr)
    assert int(said[1]) == interrupted.step
    assert 0 < interrupted.step < 15


def test_when_one_process_is_killed_the_other_ends_soon_and_says_so(interrupted):
    first, second = interrupted.bereft
    assert second.returncode == -signal.SIGKILL
    assert first.returncode not in (0, -signal.SIGKILL)
    assert re.search(
        r"another process of this run ended or cannot be reached|distributed service detected "
        r"fatal errors", first.stderr,
    )  # fmt: skip
    # Starting and compiling on busy cores included.
    assert interrupted.seconds < 60 + 3 * TIMEOUT


@pytest.mark.parametrize("count", [1, 4])
def test_what_two_processes_wrote_goes_on_with_one_and_with_four(
    interrupted, undisturbed, tmp_path, count
):
    folder = shutil.copytree(interrupted.folder, tmp_path / "run")
    assert interrupted.step < len(records(folder)) < len(records(undisturbed("bare")))
    train = ("--out", folder, "--resume")
    done = together(count, *train) if count > 1 else [cli("train", *train)]
    assert [each.returncode for each in done] == [0] * count, [each.stderr for each in done]
    assert_same_training(folder, undisturbed("bare"))
    # What gloo says of its connections is not ours to silence.
    said = [re.sub(r"\[Gloo\].*\n", "", each.stdout) for each in done]
    assert "Best validation" in said[0]
    assert not any(said[1:])


def test_an_error_of_the_first_process_is_an_error_of_all(tmp_path):
    done = together(2, "--out", tmp_path / "run", "--data", tmp_path / "nowhere")
    assert [each.returncode for each in done] == [1, 1]
    for each in done:
        assert re.search(r"process 0: .*nowhere", each.stderr)
    assert not (tmp_path / "run").exists()
