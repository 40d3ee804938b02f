"""How much of a reported gain is the choice of the epoch on the test split?

    python -m experiments.run protocol --out runs/protocol --seeds 10
    python -m experiments.run protocol --out runs/protocol_mosi --seeds 10 \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml \\
        --set data.train_share=1.0 --set data.validation_fraction=0.16 \\
        --set train.select_last=false --set train.select=weighted_f1

The field's habit is to score the test split after every epoch and to report the best. Here the same
runs are scored twice: at the epoch that validation chose, and at the best test epoch. Training is
as in the literature: 120 conversations, as IEMOCAP has, and 50 epochs at the settings of each model
by default.

Cost on two cores with the embedded corpus: half a minute to a minute a run, as the test split is
scored 50 times; so nine models and ten seeds take about an hour and a half. Expected: half a point
to two points of accuracy for nothing, more for who trains less steadily, and more the smaller the
test split; the best of ten seeds adds as much again.
"""

from __future__ import annotations

from experiments import selection
from experiments.studies import RIVALS

REFERENCE = "redifu"
CONVERSATIONS = 120 / 9000
VARIANTS = {
    name: [
        f"model.name={name}", "train.watch_test=true", "train.epochs=50",
        f"data.train_share={CONVERSATIONS:.4f}",
    ]
    for name in (REFERENCE, *RIVALS)
}  # fmt: skip
SHEETS = {"selection": selection.sheet}
