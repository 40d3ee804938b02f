"""What `redifu` does in training and in half precision; for its promises see `test_promises`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from emojax.models.registry import build
from emojax.nn.diffusion import TextGuidedDiffusion
from tests.batches import SIGNATURE, pack, random_conversation, random_variables
from tests.models.test_promises import CONVERSATIONS, LONGEST, SMALL, alone


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


def test_without_gates_and_steps_text_takes_the_mean_of_what_is_there():
    module = TextGuidedDiffusion(2, 0, causal=False, drop_rate=0.0, dtype=jnp.float32, gates=False)
    draw = np.random.default_rng(0)
    streams = jnp.asarray(draw.normal(size=(1, 4, 3, 8)), jnp.float32)
    present = jnp.array([[[1, 1, 1], [1, 1, 0], [1, 0, 1], [1, 0, 0]]], bool)
    given = streams, present, jnp.ones((1, 4), jnp.int32), jnp.arange(4, dtype=jnp.int32)[None]
    params = module.init(jax.random.key(0), *given)["params"]
    assert set(params) == {"text_norm", "other_norm", "value", "out"}
    p = jax.tree.map(np.asarray, params)
    x = np.asarray(streams, np.float64)[0, :, 1:]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    value = x @ p["value"]["kernel"] + p["value"]["bias"]
    there = np.asarray(present)[0, :, 1:, None]
    mean = (value * there).sum(1) / np.maximum(there.sum(1), 1)
    expected = np.asarray(streams)[0, :, 0] + mean @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply({"params": params}, *given)[0], expected, atol=1e-5)


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
