"""Which of its parts does `redifu` owe its accuracy to?

    python -m experiments.run ablation --out runs/ablation --seeds 10 \\
        --config experiments/simulated_small.toml
    python -m experiments.run ablation --out runs/ablation_mosi --seeds 10 \\
        --data ../shared/data/mosi --config experiments/mosi_whole.toml

Each choice of the model is switched off or swapped for another, one at a time, the rest as it is by
default. "nothing but heads" is without all of them: features, and a decision.

Cost on two cores, 21 variants and ten seeds: some two hours with a thousand conversations of the
embedded corpus, five with all of it, two on MOSI. Expected: with a thousand conversations
the chain and knowing who speaks are worth two points of accuracy each, the relation graph .7, edges
between modalities most of that; text-guided diffusion, encoders of audio and video and a second
attention map are worth nothing that ten seeds could tell, "v2" maps a little, and without the
convolution over time it is .3 better.
"""

from __future__ import annotations

REFERENCE = "redifu"

_PLAIN = [
    "model.encoder_layers=0", "model.delta=false", "model.graph_layers=0",
    "model.text_guidance=false", "model.chain=false",
]  # fmt: skip

VARIANTS = {
    "redifu": [],
    "map: no second one": ["model.attention=none"],
    "map: temporal": ["model.attention=temporal"],
    "map: v2": ["model.attention=v2"],
    "no audio and video encoders": ["model.encoder_layers=0"],
    "no delta": ["model.delta=false"],
    "no encoders, no delta": ["model.encoder_layers=0", "model.delta=false"],
    "graph: none": ["model.graph_layers=0"],
    "graph: one layer": ["model.graph_layers=1"],
    "graph: modalities apart": ["model.cross_modal=none"],
    "graph: modalities meet within utterances": ["model.cross_modal=utterance"],
    "graph: reach of one utterance": ["model.window=1"],
    "all speakers alike": ["model.speaker_relations=false"],
    "neither graph nor chain": ["model.graph_layers=0", "model.chain=false"],
    "no text guidance": ["model.text_guidance=false"],
    "diffusion: no step": ["model.diffusion_steps=0"],
    "diffusion: four steps": ["model.diffusion_steps=4"],
    "diffusion: no gates": ["model.gates=false"],
    "no chain": ["model.chain=false"],
    "no modality dropout": ["model.modality_dropout=0.0"],
    "nothing but heads": _PLAIN,
}
