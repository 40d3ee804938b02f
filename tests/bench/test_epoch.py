from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench import epoch


def test_ratios_use_the_faster_torch():
    seconds = {"torch": 40.0, "torch_compiled": 30.0, "redifu": 10.0}
    measured = {name: {"seconds": s, "flops": 8e11} for name, s in seconds.items()}
    ours = epoch.compare(measured, rate=2e11)["redifu"]
    assert ours["times_faster_than_torch"] == pytest.approx(3)
    assert ours["times_faster_than_published"] == pytest.approx(12)
    assert ours["share_of_rate"] == pytest.approx(0.4)


@pytest.mark.parametrize("arguments", [["--what", "nothing"], ["--repeats", "0"]])
def test_refuses_what_it_cannot_time(arguments):
    command = [sys.executable, "-m", "experiments.bench.epoch", *arguments]
    root = Path(__file__).parents[2]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert finished.returncode == 2
    assert arguments[0] in finished.stderr
