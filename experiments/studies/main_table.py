"""Which model is best, the same trainer, inputs and protocol for all?

    python -m experiments.run main_table --out runs/main_table --seeds 10 \\
        --config experiments/simulated_small.toml --tuned experiments/tuned/simulated_small \\
        --only redifu '[!r]*'
    python -m experiments.run main_table --out runs/main_table --seeds 10
    python -m experiments.run main_table --out runs/main_iemocap --data features.pkl --seeds 10

Every registered model but the contrastive stage, at its default size, with settings that were
searched for with the same budget for each (`--tuned`; none were for `redifu_authors` yet), or with
the default training.
`redifu_authors` trains on padded batches, at a width and with a rate at which it trains on the
embedded corpus at all; the published size is far larger than this corpus deserves.

Cost for ten seeds with a thousand conversations, minutes of one core: six to eight for `redifu`,
`mult` and `sdt`, one to three for the others; with all of the embedded corpus, by its size, six
times as much.
Expected: models that look at the conversation ahead of those that look at each utterance alone,
`redifu` first by a point and a half.
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
