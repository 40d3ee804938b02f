"""Shared by all tests: one device, a compilation cache, array annotations checked as they run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests import QUICK, SHARED

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", QUICK)

import jax
import pytest
from jaxtyping import install_import_hook

CACHE = Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", SHARED)

# Shape annotations of these rooms are verified on every call, here and nowhere else.
install_import_hook(["emojax.ops", "emojax.nn", "emojax.models"], "beartype.beartype").__enter__()

# Only now, so that the modules imported by these fixtures are checked too.
from tests.browser import browser, tab  # noqa: E402, F401
from tests.pages import browse  # noqa: E402, F401
from tests.tiny_run import authors_run, tiny_run  # noqa: E402, F401


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and fixtures beside the checkout, or a skip."""
    folder = Path(__file__).parent.parent.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared, with the real data, is not there")
    return folder


@pytest.fixture(scope="session")
def libtpu() -> Path:
    """The compiler for TPUs, outside of the environment's packages, or a skip."""
    beside = Path(sys.prefix) / "aot" / "libtpu" / "libtpu.so"
    library = Path(os.environ.get("TPU_LIBRARY_PATH", beside))
    if not library.is_file():
        pytest.skip(f"there is no libtpu ({library}); `make test` installs it")
    os.environ["TPU_LIBRARY_PATH"] = str(library)
    return library
