"""openSMILE's functionals with support vector machines, in the same folds.

Standardised with the training speakers' mean and deviation; the penalty is chosen among `PENALTIES`
by leaving out each training speaker in turn. Nothing of the test speaker is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from emojax.errors import ConfigError
from experiments.emodb.corpus import RATE, SPEAKERS, Corpus
from experiments.emodb.search import recall

PENALTIES = {"linear": (1e-4, 1e-3, 1e-2, 1e-1), "rbf": (0.3, 1.0, 3.0, 10.0, 30.0)}
RIVALS = {
    "ComParE 2016, linear SVM": ("ComParE_2016", "linear"),
    "eGeMAPS, RBF SVM": ("eGeMAPSv02", "rbf"),
}


def functionals(corpus: Corpus, features: str, cache: Path) -> np.ndarray:
    """f32[N, features] of one of openSMILE's sets, extracted once.

    Raises:
      ConfigError: openSMILE is not installed and the file not there.
    """
    path = cache / f"{features}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as found:
            if found["names"].tolist() == list(corpus.names):
                return found["x"]
    try:
        import opensmile
    except ImportError as error:
        raise ConfigError(
            "openSMILE is not installed: pip install opensmile (its licence is for research)"
        ) from error
    smile = opensmile.Smile(
        feature_set=getattr(opensmile.FeatureSet, features),
        feature_level=opensmile.FeatureLevel.Functionals,
    )
    rows = [
        # As the files are, the silence at their ends included.
        smile.process_signal(sound.astype(np.float32) / 32768, RATE).to_numpy()[0]
        for sound in track(corpus.samples, description=features)
    ]
    x = np.stack(rows).astype(np.float32)
    cache.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, names=np.array(corpus.names), x=x)
    return x


def decided(corpus: Corpus, name: str, x: np.ndarray, kernel: str) -> list[dict[str, Any]]:
    """A line for each test speaker, as the networks write them."""
    lines = []
    for test, speaker in enumerate(track(SPEAKERS, description=name)):
        training = [s for s in range(len(SPEAKERS)) if s != test]
        pairs: dict[float, list[tuple[int, int]]] = {p: [] for p in PENALTIES[kernel]}
        for other in training:
            truth = corpus.label[corpus.speaker == other].tolist()
            rest = [s for s in training if s != other]
            for penalty, said in _said(corpus, x, kernel, PENALTIES[kernel], rest, other).items():
                pairs[penalty] += zip(truth, said.tolist(), strict=True)
        reached = {penalty: recall(each) for penalty, each in pairs.items()}
        best = max(reached, key=reached.__getitem__)
        asked = np.flatnonzero(corpus.speaker == test)
        said = _said(corpus, x, kernel, (best,), training, test)[best]
        line = {"stage": "rival", "settings": name, "held": [speaker], "seed": 0, "penalty": best}
        line |= {"reached": reached, "names": [corpus.names[i] for i in asked]}
        lines.append(line | {"label": corpus.label[asked].tolist(), "both": said.tolist()})
    return lines


def _said(
    corpus: Corpus,
    x: np.ndarray,
    kernel: str,
    penalties: Sequence[float],
    speakers: Sequence[int],
    test: int,
) -> dict[float, np.ndarray]:
    """Decisions on a speaker's utterances by machines of other speakers', a penalty each."""
    from sklearn.svm import SVC

    chosen = np.isin(corpus.speaker, speakers)
    mean, deviation = x[chosen].mean(0), x[chosen].std(0)
    scaled = (x - mean) / np.where(deviation > 1e-9, deviation, 1)
    known, asked = scaled[chosen].astype(float), scaled[corpus.speaker == test].astype(float)

    def likeness(a: np.ndarray) -> np.ndarray:
        if kernel == "linear":
            return a @ known.T
        apart = (a**2).sum(1)[:, None] + (known**2).sum(1) - 2 * a @ known.T
        return np.exp(-apart / (known.shape[1] * known.var()))  # what scikit-learn calls "scale"

    of_known, of_asked = likeness(known), likeness(asked)
    machines = {p: SVC(kernel="precomputed", C=p) for p in penalties}
    return {
        p: machine.fit(of_known, corpus.label[chosen]).predict(of_asked)
        for p, machine in machines.items()
    }
