"""Whether an utterance's words mean what they say, read off two looks of a model at it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def contradiction(
    words: Float[np.ndarray, "*L C"], decided: Float[np.ndarray, "*L C"]
) -> Float[np.ndarray, "*L"]:
    """How far the words of an utterance are from what it was taken for, in [0, 1].

    That is max_c w(c) - sum_c p(c) w(c), where w is what the words say alone and out of context,
    and p what was decided from everything: by how much less the words fit an emotion drawn from the
    decision than the emotion that they fit best. It is 0 where these are the same, and where the
    words say nothing in particular; it is 1 where they surely say one emotion and all else surely
    another.

    Args:
      words, decided: rows sum to 1.
    """
    return np.clip(words.max(-1) - (words * decided).sum(-1), 0, 1)


def roc_auc(score: Float[np.ndarray, " N"], positive: Bool[np.ndarray, " N"]) -> float:
    """Area under the ROC curve: the share of pairs of a positive and a negative in which the
    positive has the higher score, equal ones counting half.

    Raises:
      ValueError: there are no positives or no negatives, so that there is no pair.
    """
    # Training, which asks for no area, would wait two seconds for it.
    from scipy.stats import rankdata

    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        raise ValueError(f"{positives} positives and {negatives} negatives make no pair")
    ranks = rankdata(score)[positive].sum() - positives * (positives + 1) / 2
    return float(ranks / (positives * negatives))
