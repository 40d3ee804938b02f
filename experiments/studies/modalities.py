"""What does each modality add, and what do they say together?

    python -m experiments.run modalities --out runs/modalities --seeds 10

`redifu` on all seven subsets of text, audio and video; what is left out is treated as missing, in
training and at test. Cost on two cores with the embedded corpus: about a minute a run, so seven
subsets and ten seeds take some 70 minutes. Expected: each modality adds to any that are there.
"""

from __future__ import annotations

import itertools
import json

from emojax.types import MODALITIES

SUBSETS = [
    subset for size in (3, 2, 1) for subset in itertools.combinations(MODALITIES, size)
]  # fmt: skip
VARIANTS = {" + ".join(subset): [f"model.modalities={json.dumps(subset)}"] for subset in SUBSETS}
REFERENCE = next(iter(VARIANTS))
