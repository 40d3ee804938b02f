"""How much accuracy is left when observations are missing at test?

    python -m experiments.run missing --out runs/missing --seeds 10

`redifu` and the stronger baselines are trained once, on the corpus as it is (a third of the texts
and a fifth of audio and video are missing from the embedded one), and tested at rates of 0 to .7,
missing at random and as whole modalities of a conversation. Each utterance keeps at least one
observation of those it had, so less is missing than the rate says: tables say how much is.

Cost on two cores with the embedded corpus: a quarter to a whole minute a run, three for `mult` and
`sdt`; so nine models and ten seeds take about two hours, or a few minutes with `--pool` where the
runs of `main_table` lie. Expected: `redifu` ahead of all at every rate, of graphs and
recurrent models by half a point to two (found with six others and ten seeds; `dialogue_gcn` is
nearest, and where whole modalities are missing not always told from chance); models that see each
utterance alone fall most, as nothing stands in for what is missing.
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
