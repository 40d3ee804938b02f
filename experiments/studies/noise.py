"""Whose accuracy stands noise, bursts of it, and frozen or lost video, and does training help?

    python -m experiments.run noise --out runs/noise --pool runs/pool --seeds 10 \\
        --config experiments/simulated_small.toml --tuned experiments/tuned/simulated_small

`redifu` and the stronger baselines, trained on the corpus as it is, and trained where audio and
video come in bursts of noise, frozen and with gaps; each run is then tested under every corruption.
The same utterances of the test split get the same noise for all models and seeds. Stretches are of
8 utterances on average where nothing else is said. Noise is measured in decibels against the
features' variance; the embedded corpus has bursts of its own, and a third of its texts are missing.

Cost: training as in `main_table`, twice, the first time for nothing where that left its runs
(`--pool`); then one to two minutes of one core for the conditions of a variant. Expected: trained
on clean data `redifu` ahead of all eight in noise, in bursts of it and with lost video, everywhere
and significantly, and behind late fusion where all of the video is frozen. Training on noise helps
`redifu` under noise, most where video is frozen, and costs it a point and a half without; the
others were not trained so yet.
"""

from __future__ import annotations

import json

from emojax.config.corruption import Noise
from experiments.curves import Panel
from experiments.studies import RIVALS

REFERENCE = "redifu"
TRAINING = (
    "noise:audio+visual:snr=-5:share=0.4", "freeze:visual:share=0.2", "drop:visual:share=0.2",
)  # fmt: skip
MODELS = (REFERENCE, *RIVALS)

REGIMES = {
    "trained on clean data": ("", []),
    "trained on noise": (", trained on noise", [f"data.corrupt={json.dumps(TRAINING)}"]),
}

VARIANTS = {
    f"{name}{suffix}": [f"model.name={name}", *settings]
    for suffix, settings in REGIMES.values()
    for name in MODELS
}


def _noise(snr: float, **stretches: float) -> str:
    return str(Noise(modalities=("audio", "visual"), snr=snr, **stretches))


AXES = {
    "Noise all the time": (
        "SNR of audio and video, dB",
        {snr: _noise(snr) for snr in (-20, -10, 0, 10, 20)},
    ),
    "Bursts of noise": (
        "SNR of half of the utterances, dB",
        {snr: _noise(snr, share=0.5) for snr in (-20, -10, 0, 10, 20)},
    ),
    "Longer bursts": (
        "mean length of bursts of -10 dB, utterances",
        {length: _noise(-10, share=0.5, length=length) for length in (2, 4, 8, 16)},
    ),
    "Frozen video": (
        "share of utterances",
        {0: "", **{s: f"freeze:visual:share={s}" for s in (0.25, 0.5, 0.75, 1)}},
    ),
    "Lost video": (
        "share of utterances",
        {0: "", **{s: f"drop:visual:share={s}" for s in (0.25, 0.5, 0.75, 1)}},
    ),
}

PANELS = [
    Panel(
        title=f"{title}, {trained}", axis=axis, reference=REFERENCE,
        logarithmic="length" in axis,
        lines={
            name: {x: (f"{name}{suffix}", condition) for x, condition in points.items()}
            for name in MODELS
        },
    )
    for title, (axis, points) in AXES.items()
    for trained, (suffix, _) in REGIMES.items()
]  # fmt: skip
