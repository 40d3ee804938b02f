"""What a run knows of itself besides its arrays."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from emojax.train.progress import Progress, forget_peak_memory


def peak() -> float:
    found = Progress({})
    found.sit(1.0)
    return found.peak_memory


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep a process's peak")
def test_memory_is_that_of_the_training_not_of_what_went_before():
    forget_peak_memory()
    before = peak()
    large = np.ones(1 << 26)  # 512 MiB, all of it touched
    assert peak() > before + 400
    del large
    assert peak() > before + 400
    forget_peak_memory()
    assert peak() < before + 400
