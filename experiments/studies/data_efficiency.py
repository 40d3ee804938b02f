"""Who learns most from few conversations?

    python -m experiments.run data_efficiency --out runs/data_efficiency --seeds 10 \\
        --only '*, 1 %' '*, 3 %' '*, 10 %' '*, 30 %'
    python -m experiments.run data_efficiency --out runs/data_efficiency_mosi --seeds 10 \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml --set train.epochs=60

Models are trained on shares of the training conversations, the same ones for all models and seeds,
a smaller share inside a larger one. Small shares get more epochs, so that all have about as many
steps, but no more than 50 and no fewer than 5: the epoch is chosen by validation.

Cost on two cores, estimated from other studies: up to 30 % of the embedded corpus, 2,700
conversations, five models and ten seeds in three quarters of an hour; all of it as much again and
more. Expected: models with few parameters
between utterances ahead at 1 %, where recurrences and attention have seen too little; `redifu`
ahead from 10 % on.
"""

from __future__ import annotations

from experiments.curves import Panel

SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
MODELS = ("redifu", "dialogue_gcn", "bc_lstm", "cnn_rnn", "early_fusion")
LEAST_EPOCHS, MOST_EPOCHS = 5, 50


def _name(model: str, share: float) -> str:
    return f"{model}, {100 * share:g} %"


REFERENCE = _name("redifu", 1.0)
VARIANTS = {
    _name(model, share): [
        f"model.name={model}", f"data.train_share={share}",
        f"train.epochs={min(MOST_EPOCHS, max(LEAST_EPOCHS, round(1 / share)))}",
    ]
    for share in reversed(SHARES) for model in MODELS
}  # fmt: skip

PANELS = [
    Panel(
        title="Share of the training conversations", axis="share, %", reference="redifu",
        logarithmic=True,
        lines={
            model: {100 * share: (_name(model, share), "") for share in SHARES} for model in MODELS
        },
    )
]  # fmt: skip
