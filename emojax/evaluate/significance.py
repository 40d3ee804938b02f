"""Whether one system is better than another, or was lucky.

Utterances of a dialogue are not independent, so intervals come from a bootstrap over dialogues
(`bootstrap`); McNemar's test, which the field asks for, takes utterances to be independent and is
too sure where they are not. Who compares one system with many must correct for the number of
comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p value of McNemar's test (Psychometrika, 1947).

    Of the utterances that one system alone has right, each is as likely to be the first's as the
    second's if both are equally good.

    Args:
      first, second: bool[N], which utterances each system has right.
    """
    alone = int((first & ~second).sum()), int((second & ~first).sum())
    if sum(alone) == 0:
        return 1.0
    return float(scipy.stats.binomtest(alone[0], sum(alone), 0.5).pvalue)


def bootstrap_p(differences: np.ndarray) -> float:
    """Two-sided p value of a difference from its bootstrap samples f64[R].

    Twice the share of samples on the rarer side of zero, ties counted half; never below
    2 / (R + 1), because R samples cannot tell a smaller one.
    """
    above = float((differences > 0).sum() + 0.5 * (differences == 0).sum())
    rarer = min(above, len(differences) - above)
    return min(1.0, 2 * (rarer + 1) / (len(differences) + 1))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction (Scandinavian Journal of Statistics, 1979): p values of which those below a
    level are false with at most that chance for all of them together."""
    order = np.argsort(p, kind="stable")
    left = len(p) - np.arange(len(p))
    corrected = np.minimum(np.maximum.accumulate(left * np.asarray(p, float)[order]), 1)
    found = np.empty(len(p))
    found[order] = corrected
    return found.tolist()
