"""Which model is best, the same trainer, inputs and protocol for all?

    python -m experiments.run main_table --out runs/main_table --seeds 10
    python -m experiments.run main_table --out runs/main_iemocap --data features.pkl --seeds 10

Every registered model but the contrastive stage, at its default size with the default training.
`redifu_authors` trains on padded batches, at a width and with a rate at which it trains on the
embedded corpus at all; the published size is far larger than this corpus deserves.

Cost on two cores with the embedded corpus: a quarter to a whole minute a run, three for `mult` and
`sdt`, five for `redifu_authors`; so 15 models and ten seeds take about four hours. Expected: models
that look at the conversation ahead of those that look at each utterance alone, `redifu` first.
"""

from __future__ import annotations

from emojax.config import MODELS

REFERENCE = "redifu"

AUTHORS = [
    "data.layout=padded", "data.buckets=[]", "model.width=64", "model.heads=8",
]  # fmt: skip

VARIANTS = {
    name: [f"model.name={name}", *(AUTHORS if name == "redifu_authors" else [])]
    for name in MODELS
    if name != "shared_space"  # a stage before fusion
}
