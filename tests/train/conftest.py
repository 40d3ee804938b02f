"""A tiny corpus, and runs on it that nothing disturbed, to hold the disturbed ones against."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from emojax.data.prepare import prepare
from emojax.data.simulator import SimulatorConfig
from emojax.train.abandoned import hush
from tests.conftest import CACHE
from tests.train.runs import VARIANTS, cli, settings

SMALL = SimulatorConfig(
    train=24, validation=8, test=6, shortest=3, longest=30, mean_length=10.0, widths=(8, 4, 4)
)


@pytest.fixture(scope="session", autouse=True)
def _hushed() -> None:
    """As in every process that imports checkpoints; pytest put its own hooks in since."""
    hush()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """Folder of a prepared corpus of two dozen conversations."""
    return prepare(SMALL, tmp_path_factory.mktemp("data")).path


@pytest.fixture(scope="session")
def undisturbed(corpus, tmp_path_factory):
    """(name of a variant) -> folder of its finished run, trained by the command line.

    Beside it lies what the command line `said`.
    """
    finished: dict[str, Path] = {}

    def get(variant: str) -> Path:
        if variant not in finished:
            folder = tmp_path_factory.mktemp(variant) / "run"
            CACHE.mkdir(parents=True, exist_ok=True)
            with (CACHE / ".lock").open("a") as lock:  # the only one who writes there, see `runs`
                fcntl.flock(lock, fcntl.LOCK_EX)
                done = cli(
                    "train", "--out", folder, *settings(corpus, VARIANTS[variant]),
                    variables={"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"},
                )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, "")
            folder.with_name("said").write_text(done.stdout, encoding="utf-8")
            finished[variant] = folder
        return finished[variant]

    return get
