"""What `redifu` promises: isolation of conversations, causality, and silence of the missing."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.config import RedifuConfig
from emojax.models.registry import build
from emojax.types import MODALITIES
from tests.batches import SIGNATURE, pack, random_conversation, random_variables

SMALL = RedifuConfig(width=16, heads=2, graph_heads=2, window=3, encoder_layers=1, graph_layers=2)
ABLATIONS = {
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
    "no text guidance": {"text_guidance": False},
    "speaker embedding": {"speaker_embedding": True},
    "no mean field": {"mean_field_steps": 0},
    "causal": {"causal": True},
    "causal temporal": {"causal": True, "attention": "temporal"},
    "causal v2": {"causal": True, "attention": "v2"},
}
CONVERSATIONS = [random_conversation(seed, length) for seed, length in enumerate([9, 4, 1, 7, 12])]
LONGEST = 12


@pytest.fixture(scope="module", params=ABLATIONS, ids=str)
def model(request):
    """(config, apply) of each ablation, at random parameters."""
    config = dataclasses.replace(SMALL, **ABLATIONS[request.param])
    module = build(config, SIGNATURE)
    batch = pack([[CONVERSATIONS[0]]], LONGEST)
    variables = random_variables(module, batch)
    return config, jax.jit(lambda batch: module.apply(variables, batch))


def scores(output, row, columns):
    """Probabilities of some utterances, the model's and each modality's: f32[n, 4 C]."""
    logits = np.asarray(output.logits)[..., None, :], np.asarray(output.modality_logits)
    picked = np.concatenate(logits, axis=-2)[row, columns]
    return scipy.special.softmax(picked, axis=-1).reshape(len(columns), -1)


def alone(apply, conversation):
    """Scores of a conversation in a row of its own; every test shares this row's length."""
    return scores(apply(pack([[conversation]], LONGEST)), 0, np.arange(len(conversation)))


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
    _, apply = model
    whole = dataclasses.replace(CONVERSATIONS[4], present=np.ones((12, 3), bool))
    for name in MODALITIES:
        other = dataclasses.replace(whole, **{name: getattr(whole, name) + 1})
        assert np.abs(alone(apply, other) - alone(apply, whole)).max() > 1e-4


def test_causal_mode_never_looks_ahead(model):
    config, apply = model
    conversation = dataclasses.replace(CONVERSATIONS[4], present=np.ones((12, 3), bool))
    batch = pack([[conversation]], LONGEST)

    def outputs(features):
        output = apply(batch.replace(**features))
        return output.logits[0].sum(-1) + output.modality_logits[0].sum((-1, -2))

    jacobian = jax.jit(jax.jacrev(outputs))({m: getattr(batch, m) for m in MODALITIES})
    for name in MODALITIES:
        influence = np.abs(np.asarray(jacobian[name])[:, 0]).max(-1)  # output i, input j
        future = np.triu(np.ones_like(influence, bool), 1)
        assert (influence[~future & np.eye(LONGEST, dtype=bool)] > 0).all()
        if config.causal:
            assert (influence[future] == 0).all()
        else:
            assert (influence[future] > 0).any()


def test_half_precision_computes_in_half_and_stores_in_single():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    half, single = build(config, SIGNATURE), build(SMALL, SIGNATURE)
    batch = pack([[CONVERSATIONS[0], CONVERSATIONS[1]]], 13)
    variables = random_variables(half, batch)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    ours, exact = (jax.jit(m.apply)(variables, batch).logits for m in (half, single))
    assert ours.dtype == jnp.float32
    difference = np.abs(ours - exact)[batch.segment > 0].max()
    assert 0 < difference < 0.1
    text = str(jax.make_jaxpr(lambda b: half.apply(variables, b))(batch))
    assert "bf16" in text


def test_parameters_need_shapes_only(model):
    config, _ = model
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), pack([[CONVERSATIONS[0]]], LONGEST)
    )
    shapes = jax.eval_shape(build(config, SIGNATURE).init, jax.random.key(0), batch)
    assert set(shapes) == {"params", "statistics"}


def test_training_hides_modalities_of_conversations_not_of_rows():
    config = dataclasses.replace(SMALL, modality_dropout=0.5)
    module = build(config, SIGNATURE)
    a = dataclasses.replace(random_conversation(0, 3), present=np.ones((3, 3), bool))
    batch = pack([[a] * 8 for _ in range(16)], 24)
    hide = lambda m: m.hide_modalities(batch.present, batch.segment)  # noqa: E731
    present = np.asarray(module.apply({}, rngs={"dropout": jax.random.key(0)}, method=hide))
    by_conversation = present.reshape(16, 8, 3, 3)
    assert (by_conversation == by_conversation[:, :, :1]).all()
    assert by_conversation[:, :, 0].any(-1).all()
    shares = by_conversation[:, :, 0].mean((0, 1))
    # All three are hidden with 1/8 chance and then all are shown: 1/2 + 1/8.
    np.testing.assert_allclose(shares, 0.625, atol=0.15)
    assert len({tuple(row.ravel()) for row in by_conversation[:, :, 0]}) > 1


def test_a_modality_left_out_has_no_influence():
    module = build(dataclasses.replace(SMALL, modalities=("text", "visual")), SIGNATURE)
    whole = dataclasses.replace(CONVERSATIONS[4], present=np.ones((12, 3), bool))
    variables = random_variables(module, pack([[whole]], LONGEST))
    apply = jax.jit(lambda batch: module.apply(variables, batch))
    for name, matters in (("text", True), ("audio", False), ("visual", True)):
        other = dataclasses.replace(whole, **{name: getattr(whole, name) + 1})
        assert (alone(apply, other) != alone(apply, whole)).any() == matters


def test_training_blends_features_with_those_that_are_present():
    module = build(dataclasses.replace(SMALL, feature_mix=0.5), SIGNATURE)
    draw = np.random.default_rng(0)
    present = draw.random((16, 64)) > 0.3
    # Every utterance has a value of its own, and what is missing is marked by a value that no
    # blend of present ones can reach.
    value = draw.permutation(present.size).reshape(present.shape).astype(np.float32)
    features = np.where(present, value, -1e6)[..., None]
    mixed = np.asarray(
        module.apply(
            {}, jnp.asarray(features), jnp.asarray(present),
            method="mix", rngs={"dropout": jax.random.key(0)},
        )
    )[..., 0]  # fmt: skip
    changed = mixed != features[..., 0]
    assert not changed[~present].any()
    assert mixed[present].min() >= 0
    # Half are chosen, of which 30 % find a donor that is missing and stay as they are.
    np.testing.assert_allclose(changed[present].mean(), 0.5 * 0.7, atol=0.06)
    still = module.apply({}, jnp.asarray(features), jnp.asarray(present), method="mix")
    np.testing.assert_array_equal(still, features)
