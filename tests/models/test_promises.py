"""What every model of ours promises: conversations are isolated, the missing are silent, and in
causal mode nobody looks ahead."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import scipy.special

from emojax.config import MODELS, RedifuConfig
from emojax.models.registry import build
from emojax.types import MODALITIES, Signature
from tests.batches import FRAMED, SIGNATURE, pack, random_conversation, random_variables

SMALL = RedifuConfig(width=16, heads=2, graph_heads=2, window=3, encoder_layers=1, graph_layers=2)
REDIFU = {
    "default": {},
    "temporal": {"attention": "temporal"},
    "v2": {"attention": "v2"},
    "plain attention": {"attention": "none"},
    "no encoder": {"encoder_layers": 0, "delta": False},
    "no graph": {"graph_layers": 0},
    "no cross-modal edges": {"cross_modal": "none"},
    "cross-modal within the utterance": {"cross_modal": "utterance"},
    "speakers merged": {"speaker_relations": False},
    "no diffusion": {"diffusion_steps": 0},
    "no gates": {"gates": False},
    "no text guidance": {"text_guidance": False},
    "speaker embedding": {"speaker_embedding": True},
    "no chain": {"chain": False},
    "causal": {"causal": True},
    "causal temporal": {"causal": True, "attention": "temporal"},
    "causal v2": {"causal": True, "attention": "v2"},
}
BASELINES = {name: kind(width=16) for name, kind in MODELS.items() if not name.startswith("redifu")}
CONTEXT = ("late_transformer", "bc_lstm", "cnn_rnn", "mult", "dialogue_gcn", "sdt")
"""Baselines that look at more than one utterance."""
CASES = {
    **{f"redifu, {name}": dataclasses.replace(SMALL, **change) for name, change in REDIFU.items()},
    **BASELINES,
    **{f"{name}, causal": dataclasses.replace(BASELINES[name], causal=True) for name in CONTEXT},
    "single, visual": dataclasses.replace(BASELINES["single"], modalities=("visual",)),
    "late_fusion, average": dataclasses.replace(BASELINES["late_fusion"], decision="average"),
    **{
        f"early_fusion, aligned by {how}{', causal' * causal}": dataclasses.replace(
            BASELINES["early_fusion"], alignment=how, causal=causal
        )
        for how in ("memory", "attention")
        for causal in (False, True)
    },
    "shared_space, supervised": dataclasses.replace(
        BASELINES["shared_space"], contrast="supervised"
    ),
    "early_fusion, frames": BASELINES["early_fusion"],
    "redifu, causal, frames": dataclasses.replace(SMALL, causal=True, graph_layers=1),
    "mult, two layers": dataclasses.replace(BASELINES["mult"], layers=2),
}


def signature_of(case: str) -> Signature:
    return FRAMED if case.endswith("frames") else SIGNATURE


CONVERSATIONS = [random_conversation(seed, length) for seed, length in enumerate([9, 4, 1, 7, 12])]
LONGEST = 12


@pytest.fixture(scope="module", params=CASES, ids=str)
def model(request):
    """(config, apply) of each case, at random parameters."""
    config = CASES[request.param]
    module = build(config, signature_of(request.param))
    variables = random_variables(module, pack([[CONVERSATIONS[0]]], LONGEST))
    return config, jax.jit(lambda batch: module.apply(variables, batch))


def scores(output, row, columns):
    """Probabilities of some utterances, the model's and each modality's: f32[n, 4 C]."""
    logits = np.asarray(output.logits)[..., None, :], np.asarray(output.modality_logits)
    picked = np.concatenate(logits, axis=-2)[row, columns]
    return scipy.special.softmax(picked, axis=-1).reshape(len(columns), -1)


def alone(apply, conversation):
    """Scores of a conversation without any other; in the shape of all batches here, so that a
    model is compiled once."""
    return scores(apply(pack([[conversation], [], []], 24)), 0, np.arange(len(conversation)))


def test_output_depends_on_the_conversation_alone(model):
    _, apply = model
    a, b, c, d, e = CONVERSATIONS
    expected = [alone(apply, conversation) for conversation in CONVERSATIONS]
    packed = apply(pack([[a, b, c], [d], [e]], 24))
    places = [(0, 0), (0, 9), (0, 13), (1, 0), (2, 0)]
    for conversation, (row, start), wanted in zip(CONVERSATIONS, places, expected, strict=True):
        got = scores(packed, row, start + np.arange(len(conversation)))
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


def test_permuting_conversations_permutes_the_output(model):
    _, apply = model
    a, b, _, d, _ = CONVERSATIONS
    one = apply(pack([[a, b], [d], []], 24))
    two = apply(pack([[d], [b, a], []], 24))
    for conversation, here, there in [
        (a, (0, 0), (1, 4)),
        (b, (0, 9), (1, 0)),
        (d, (1, 0), (0, 0)),
    ]:
        columns = np.arange(len(conversation))
        np.testing.assert_allclose(
            scores(one, here[0], here[1] + columns),
            scores(two, there[0], there[1] + columns), rtol=0, atol=1e-6,
        )  # fmt: skip


def test_missing_values_have_no_influence(model):
    _, apply = model
    conversation = CONVERSATIONS[4]
    assert not conversation.present.all()
    for value in (1e30, np.nan, -np.inf):
        changed = {
            m: np.where(conversation.present[:, [i]], getattr(conversation, m), np.float32(value))
            for i, m in enumerate(MODALITIES)
        }
        other = dataclasses.replace(conversation, **changed)
        np.testing.assert_array_equal(alone(apply, other), alone(apply, conversation))


def test_a_present_value_has_influence(model):
    config, apply = model
    whole = dataclasses.replace(CONVERSATIONS[4], present=np.ones((12, 3), bool))
    for name in MODALITIES:
        other = dataclasses.replace(whole, **{name: getattr(whole, name) + 1})
        change = np.abs(alone(apply, other) - alone(apply, whole)).max()
        assert change > 1e-4 if name in config.modalities else change == 0


def test_causal_mode_never_looks_ahead(model):
    config, apply = model
    conversation = dataclasses.replace(CONVERSATIONS[4], present=np.ones((12, 3), bool))
    before = alone(apply, conversation)

    def influence(name, j):
        """f32[L] of utterance j's modality on each utterance."""
        changed = getattr(conversation, name).copy()
        changed[j] += 1
        return np.abs(alone(apply, dataclasses.replace(conversation, **{name: changed})) - before)

    for name in config.modalities:
        looks_around = config.name in ("redifu", *CONTEXT) or config.alignment == "memory"
        # Aligned by attention, words ask and are not asked.
        looks_around |= config.alignment == "attention" and name != "text"
        found = np.stack([influence(name, j).max(-1) for j in range(LONGEST)], 1)  # i, j
        future = np.triu(np.ones_like(found, bool), 1)
        assert (np.diag(found) > 0).all()
        assert (found[future] > 0).any() == (looks_around and not config.causal)
        past = np.tril(np.ones_like(found, bool), -1)
        assert (found[past] > 0).any() == looks_around


def test_parameters_need_shapes_only(model):
    config, _ = model
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pack([[CONVERSATIONS[0]]], LONGEST)
    )
    shapes = jax.eval_shape(build(config, SIGNATURE).init, jax.random.key(0), batch)
    assert set(shapes) == {"params", "statistics"}
