"""How much accuracy is left when observations are missing at test?

    python -m experiments.run missing --out runs/missing --pool runs/pool --seeds 10 \\
        --config experiments/simulated_small.toml --tuned experiments/tuned/simulated_small

`redifu` and the stronger baselines are trained once, on the corpus as it is (a third of the texts
and a fifth of audio and video are missing from the embedded one), and tested at rates of 0 to .7,
missing at random and as whole modalities of a conversation. Each utterance keeps at least one
observation of those it had, so less is missing than the rate says: tables say how much is.

Cost: training as in `main_table`, and where that left its runs (`--pool`) some ten minutes of one
core. Expected: with a thousand conversations `redifu` ahead of all eight at every rate,
significantly, of graphs, recurrent models and convolutions by two to four points; with all of the
embedded corpus by half a point to two, and where whole modalities are missing not always told from
chance of `dialogue_gcn`. Models that see each utterance alone fall most, as nothing stands in for
what is missing.
"""

from __future__ import annotations

from experiments.curves import Panel
from experiments.studies import RIVALS

REFERENCE = "redifu"
MODELS = (REFERENCE, *RIVALS)
RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

VARIANTS = {name: [f"model.name={name}"] for name in MODELS}

PANELS = [
    Panel(
        title=title, axis="rate", reference=REFERENCE,
        lines={
            name: {0.0: (name, ""), **{rate: (name, f"{kind}:rate={rate}") for rate in RATES}}
            for name in MODELS
        },
    )
    for title, kind in (
        ("Missing at random", "missing"),
        ("Whole modalities of a conversation missing", "missing_modality"),
    )
]  # fmt: skip
