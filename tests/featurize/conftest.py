"""One corpus of small recordings, featurized once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed (extra `media`)")
pytest.importorskip("cv2", reason="OpenCV is not installed (extra `media`)")

from emojax.featurize.run import Outcome, featurize
from tests.conftest import CACHE
from tests.featurize.recordings import make_corpus


@pytest.fixture(scope="session", autouse=True)
def _cached_programs():
    """Workers compile what an earlier test's have compiled only once."""
    known = {
        "JAX_COMPILATION_CACHE_DIR": str(CACHE), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in known}
    os.environ.update(known)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="session")
def made(manifest: Path, tmp_path_factory) -> Outcome:
    return featurize(manifest, tmp_path_factory.mktemp("made") / "out", workers=2)
