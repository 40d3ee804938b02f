"""What does each modality add, and what do they say together?

    python -m experiments.run modalities --out runs/modalities --pool runs/pool --seeds 10 \\
        --config experiments/simulated_small.toml --tuned experiments/tuned/simulated_small
    python -m experiments.run modalities --out runs/modalities_mosi --seeds 10 \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml

`redifu` on all seven subsets of text, audio and video; what is left out is treated as missing, in
training and at test.

Cost for ten seeds, minutes of one core: six a subset with a thousand conversations, four on MOSI.
Expected: each modality adds to any that are there on the simulator; on MOSI, whose video features
know the training videos' labels, video takes five points from text and audio.
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
