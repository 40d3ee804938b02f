"""The authors' PyTorch state dict and our `redifu_authors` parameters, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Params = dict[str, Any]
State = dict[str, np.ndarray]

_ENCODERS = {"audio_encoder": "a_a", "visual_encoder": "v_v"}
_GATES = {"audio_encoder": "agate", "visual_encoder": "vgate"}
_GRAPHS = {"cross_speaker_graph": "gatTer", "same_speaker_graph": "gatT"}
_INPUTS = {"text": "textf_input", "audio": "acouf_input", "visual": "visuf_input"}
_LAYER = "internal_transformer.0"
_MLP_LAYERS = (0, 3, 6, 9)


def _dense(state: Mapping[str, np.ndarray], name: str, *, bias: bool = True) -> Params:
    layer = {"kernel": state[f"{name}.weight"].T}
    return layer | {"bias": state[f"{name}.bias"]} if bias else layer


def _norm(state: Mapping[str, np.ndarray], name: str) -> Params:
    return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}


def _gat_layer(state: Mapping[str, np.ndarray], names: list[str]) -> Params:
    stack = lambda field: np.stack([state[f"{name}.{field}"] for name in names])  # noqa: E731
    return {
        "kernel": np.concatenate([state[f"{name}.W"] for name in names], axis=1),
        "attention": stack("a")[..., 0],
        "norm": {"scale": stack("layer_norm.weight"), "bias": stack("layer_norm.bias")},
    }


def _encoder(state: Mapping[str, np.ndarray], name: str, gate: str) -> Params:
    layer = f"{name}.{_LAYER}"
    return {
        "delta_kernel": state[f"{name}.delta_net.conv.weight"][:, 0].T,
        "delta_bias": state[f"{name}.delta_net.conv.bias"],
        "delta_scale": state[f"{name}.delta_net.alpha"][0],
        "delta_norm": _norm(state, f"{name}.delta_net.norm"),
        "delta_gate": _dense(state, f"{name}.delta_net.gate.0"),
        "gate_norm": _norm(state, f"{name}.context_gate.norm"),
        "gate_hidden": _dense(state, f"{name}.context_gate.w.0"),
        "gate_score": _dense(state, f"{name}.context_gate.w.2"),
        "pre_norm": _norm(state, f"{name}.pre_norm"),
        "lambda": state[f"{layer}.self_attn.lambda_"],
        "qkv": _dense(state, f"{layer}.self_attn.qkv"),
        "out": _dense(state, f"{layer}.self_attn.out"),
        "norm1": _norm(state, f"{layer}.norm1"),
        "norm2": _norm(state, f"{layer}.norm2"),
        "ff_norm": _norm(state, f"{layer}.feed_forward.layer_norm"),
        "ff_in": _dense(state, f"{layer}.feed_forward.w_1"),
        "ff_out": _dense(state, f"{layer}.feed_forward.w_2"),
        "out_gate": _dense(state, f"{gate}.gate.0"),
    }


def _fusion(state: Mapping[str, np.ndarray], letter: str) -> Params:
    name = "mutual_former"
    mlp = {
        f"mlp_{i}": _dense(state, f"{name}.mlp_{letter}.layers.{j}")
        for i, j in enumerate(_MLP_LAYERS)
    }
    return mlp | {
        "qkv": state[f"{name}.attn_{letter}.qkv.weight"].T,
        "out": _dense(state, f"{name}.attn_{letter}.proj", bias=False),
        "out_bias": state[f"{name}.attn_{letter}.proj.bias"],
        "gate": _dense(state, f"{name}.gate_{letter}.gate.0"),
    }


def from_state_dict(state: Mapping[str, np.ndarray]) -> Params:
    """Parameters of `RedifuAuthors` from the published state dict (numpy arrays by its names).

    Buffers (position tables), parameters that the published forward pass never reads and the
    relation table's other names are ignored. Raises KeyError naming a tensor that is missing.
    """
    params: Params = {
        "speaker_embedding": state["speaker_embeddings.weight"],
        "relation_embedding": state["relation_embedding.weight"],
    }
    for modality, name in _INPUTS.items():
        letter = modality[0]
        params[f"{modality}_input"] = _dense(state, name)
        params[f"{modality}_fusion"] = _fusion(state, letter)
        params[f"{modality}_fusion_norm"] = _norm(state, f"mutual_former.norm_{letter}")
        params[f"{modality}_head"] = _dense(state, f"{letter}_output_layer.2")
    for encoder, name in _ENCODERS.items():
        params[encoder] = _encoder(state, name, _GATES[encoder])
    for graph, name in _GRAPHS.items():
        params[graph] = {
            "heads": _gat_layer(state, [f"{name}.attentions.0", f"{name}.attentions.1"]),
            "out": _gat_layer(state, [f"{name}.out_att"]),
            "project": _dense(state, f"{name}.fc"),
            "norm": _norm(state, f"{name}.layer_norm"),
        }
    return params
