"""The authors' PyTorch state dict and our `redifu_authors` parameters, both ways."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from emojax.config import RedifuAuthorsConfig
from emojax.types import MODALITIES, Signature

Params = dict[str, Any]
State = dict[str, np.ndarray]

_ENCODERS = {"audio_encoder": "a_a", "visual_encoder": "v_v"}
_GATES = {"audio_encoder": "agate", "visual_encoder": "vgate"}
_GRAPHS = {"cross_speaker_graph": "gatTer", "same_speaker_graph": "gatT"}
_INPUTS = {"text": "textf_input", "audio": "acouf_input", "visual": "visuf_input"}
_LAYER = "internal_transformer.0"
_MLP_LAYERS = (0, 3, 6, 9)
_MLP_RATIO = 4
_RELATION = (6, 10)
_POSITIONS = 512
"""Places of the MELD branch's table."""


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


def state_shapes(config: RedifuAuthorsConfig, signature: Signature) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the published state dict, those that nothing reads included."""
    d, classes = config.width, len(signature.labels)
    found: dict[str, tuple[int, ...]] = {}

    def affine(name: str, inputs: int, outputs: int, *, bias: bool = True) -> None:
        found[f"{name}.weight"] = (outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (outputs,)

    def norm(name: str, width: int = d) -> None:
        found.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    found["speaker_embeddings.weight"] = (len(signature.speakers) + 1, d)
    for modality, width in zip(MODALITIES, signature.widths, strict=True):
        affine(_INPUTS[modality], width, d)
    for encoder, gate in zip(_ENCODERS.values(), _GATES.values(), strict=True):
        if config.branch == "iemocap":
            found[f"{encoder}.pos_emb.modality_scales"] = (len(MODALITIES),)
            found[f"{encoder}.pos_emb.inv_freq"] = (d // 2,)
        else:
            found[f"{encoder}.pos_emb.pe"] = (1, _POSITIONS, d)
        found[f"{encoder}.delta_net.alpha"] = (1,)
        found[f"{encoder}.delta_net.conv.weight"] = (d, 1, 3)
        found[f"{encoder}.delta_net.conv.bias"] = (d,)
        norm(f"{encoder}.delta_net.norm")
        affine(f"{encoder}.delta_net.gate.0", d, d)
        norm(f"{encoder}.context_gate.norm", 2 * d)
        affine(f"{encoder}.context_gate.w.0", 2 * d, d)
        affine(f"{encoder}.context_gate.w.2", d, 1)
        layer = f"{encoder}.{_LAYER}"
        found[f"{layer}.self_attn.lambda_"] = ()
        affine(f"{layer}.self_attn.qkv", d, 3 * d)
        affine(f"{layer}.self_attn.out", d, d)
        affine(f"{layer}.feed_forward.w_1", d, d)
        affine(f"{layer}.feed_forward.w_2", d, d)
        for name in ("feed_forward.layer_norm", "norm1", "norm2"):
            norm(f"{layer}.{name}")
        norm(f"{encoder}.pre_norm")
        affine(f"{gate}.gate.0", d, d)
    for graph in _GRAPHS.values():
        for name, inputs in (("attentions.0", d), ("attentions.1", d), ("out_att", 2 * d)):
            found[f"{graph}.{name}.W"] = (inputs, d)
            found[f"{graph}.{name}.a"] = (2 * d + _RELATION[1], 1)
            found[f"{graph}.{name}.relation_embedding.weight"] = _RELATION
            norm(f"{graph}.{name}.layer_norm")
        affine(f"{graph}.fc", d, d)
        norm(f"{graph}.layer_norm")
    for letter in (modality[0] for modality in MODALITIES):
        fusion, hidden = "mutual_former", _MLP_RATIO * d
        norm(f"{fusion}.norm_{letter}")
        affine(f"{fusion}.attn_{letter}.qkv", d, 3 * d, bias=False)
        affine(f"{fusion}.attn_{letter}.proj", d, d)
        affine(f"{fusion}.gate_{letter}.gate.0", 2 * d, d)
        sizes = [d, hidden, hidden, hidden, d]
        for number, inputs, outputs in zip(_MLP_LAYERS, sizes[:-1], sizes[1:], strict=True):
            affine(f"{fusion}.mlp_{letter}.layers.{number}", inputs, outputs)
        affine(f"{letter}_output_layer.2", d, classes)
    found["relation_embedding.weight"] = _RELATION
    return found


def to_state_dict(params: Params, config: RedifuAuthorsConfig, signature: Signature) -> State:
    """The published state dict with these parameters: `from_state_dict` undone, bit by bit.

    It is complete, so that the published code loads it strictly. What its forward pass never reads
    is there too: position tables, the relation table's other names, and scales that are one.
    """
    shapes = state_shapes(config, signature)
    # Renaming only moves numbers, so where each goes is found by sending their places through it.
    sizes = [math.prod(shape) for shape in shapes.values()]
    ends = np.cumsum(sizes)
    places = {
        name: np.arange(end - size, end).reshape(shape)
        for (name, shape), size, end in zip(shapes.items(), sizes, ends, strict=True)
    }
    everything = np.ones(int(ends[-1]), np.float32)
    _fill(everything, from_state_dict(places), params)
    state = {name: everything[place] for name, place in places.items()}
    rate = 10000.0 ** (-np.arange(0, config.width, 2) / config.width)
    angle = np.arange(_POSITIONS)[:, None] * rate
    unread = {
        "inv_freq": rate,
        "pe": np.stack([np.sin(angle), np.cos(angle)], -1).reshape(1, _POSITIONS, -1),
        "relation_embedding.weight": state["relation_embedding.weight"],
    }
    for name in state:
        for end, value in unread.items():
            if name.endswith(f".{end}"):
                state[name] = value.astype(np.float32)
    return state


def _fill(everything: np.ndarray, places: Params, params: Params) -> None:
    for name, place in places.items():
        if isinstance(place, dict):
            _fill(everything, place, params[name])
        else:
            everything[place] = params[name]
