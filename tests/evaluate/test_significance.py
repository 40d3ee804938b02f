"""Tests of significance against enumeration and against what their names promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.evaluate.significance import bootstrap_p, holm, mcnemar


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (1, 0), (3, 9), (9, 3), (12, 12), (40, 22)])
def test_mcnemar_counts_the_outcomes_that_are_no_likelier(ours, theirs):
    first = np.repeat([True, False, True, False], [ours, theirs, 50, 20])
    second = np.repeat([False, True, True, False], [ours, theirs, 50, 20])
    n = ours + theirs
    chance = [math.comb(n, k) / 2**n for k in range(n + 1)]
    wanted = sum(c for c in chance if c <= chance[ours] * (1 + 1e-9))
    assert mcnemar(first, second) == pytest.approx(wanted)
    assert mcnemar(second, first) == pytest.approx(wanted)


def test_holm_by_hand():
    # 3 x .01; 2 x .02 and at least the one before; 1 x .5.
    assert holm([0.02, 0.5, 0.01]) == pytest.approx([0.04, 0.5, 0.03])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
    assert holm([]) == []


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """A hypothesis falls if Bonferroni refutes every set of hypotheses that it is in."""
    for i, found in enumerate(holm(p)):
        sets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n)]
        wanted = max(min(1, len(s) * min(p[j] for j in s)) for s in sets if i in s)
        assert found == pytest.approx(wanted)


def test_a_bootstrap_cannot_be_surer_than_its_samples():
    assert bootstrap_p(np.full(999, 0.1)) == pytest.approx(0.002)
    assert bootstrap_p(-np.full(999, 0.1)) == pytest.approx(0.002)
    assert bootstrap_p(np.zeros(999)) == 1
    half = np.repeat([-1.0, 1.0], [100, 899])
    assert bootstrap_p(half) == pytest.approx(2 * 101 / 1000)
