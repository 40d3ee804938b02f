"""Micro-batches add up to the batch: objective and gradient are those of the whole."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.config import RedifuConfig, TrainConfig
from emojax.errors import ConfigError
from emojax.models.output import Output
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.train.accumulate import accumulated, micro_batches
from emojax.train.objective import objective
from tests.batches import SIGNATURE, pack, random_conversation, random_variables

BATCH = pack([[random_conversation(i, n)] for i, n in enumerate([9, 1, 7, 12, 3, 5, 2, 11])], 12)
WEIGHTS = jnp.array([0.2, 3.0, 1.0, 0.7])


def output_of(params, batch, key):
    """A linear model of each modality, which draws nothing."""
    each = [getattr(batch, name) @ params[name] for name in ("text", "audio", "visual")]
    return Output(logits=jnp.tanh(sum(each)), modality_logits=jnp.stack(each, 2))


@pytest.fixture(scope="module")
def params():
    keys = jax.random.split(jax.random.key(0), 3)
    names = zip(("text", "audio", "visual"), SIGNATURE.widths, keys, strict=True)
    return {name: 0.3 * jax.random.normal(key, (width, 4)) for name, width, key in names}


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"auxiliary_weight": 0.5}, {"auxiliary_weight": 0.5, "auxiliary_power": 2},
     {"label_smoothing": 0.1}],
    ids=str,
)  # fmt: skip
def test_loss_and_gradient_are_those_of_the_whole_batch(params, settings, weights, count):
    """Of micro-batches with different numbers of labels, one of them with hardly any."""
    config = TrainConfig(accumulate=count, **settings)
    expected = jax.value_and_grad(
        lambda p: objective(output_of(p, BATCH, None), BATCH.label, config, weights)
    )(params)
    found = accumulated(output_of, params, BATCH, jax.random.key(0), config, weights)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected
    )


def test_without_any_label_there_is_no_gradient(params):
    batch = dataclasses.replace(BATCH, label=jnp.full_like(BATCH.label, -1))
    config = TrainConfig(accumulate=4, auxiliary_weight=1.0, auxiliary_power=2)
    found = accumulated(output_of, params, batch, jax.random.key(0), config, None)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(found))


def test_rows_are_dealt_out_so_that_devices_keep_their_own():
    batch = dataclasses.replace(BATCH, capacity=50)
    parts = micro_batches(batch, 2)
    assert parts.text.shape == (2, 4, 12, 7)
    np.testing.assert_array_equal(parts.text[1], BATCH.text[1::2])
    assert parts.capacity == 48
    with pytest.raises(ConfigError, match=r"train\.accumulate = 3 must divide the rows .* here 8"):
        micro_batches(batch, 3)


def test_every_micro_batch_draws_its_own_dropout(params):
    """The same rows twice: the draws tell them apart."""
    keys = []
    twice = jax.tree.map(lambda x: jnp.repeat(x[:1], 2, axis=0), BATCH)

    def noisy(params, batch, key):
        jax.debug.callback(
            lambda words: keys.append(tuple(words.tolist())), jax.random.key_data(key)
        )
        return output_of(params, batch, key)

    accumulated(noisy, params, twice, jax.random.key(0), TrainConfig(accumulate=2), None)
    jax.effects_barrier()
    assert len(set(keys)) == 2


def gradient(remat: str, dtype: str = "float32"):
    config = RedifuConfig(
        width=16, heads=2, graph_heads=2, encoder_layers=1, graph_layers=1, window=2,
        diffusion_steps=1, chain=False, attention_dropout=0.1, dtype=dtype,
    )  # fmt: skip
    model = build(config, SIGNATURE, remat)
    variables = random_variables(model, BATCH)

    def loss(params):
        given = {"params": params, "statistics": identity_statistics(SIGNATURE.widths)}
        output = model.apply(given, BATCH, rngs={"dropout": jax.random.key(1)})
        return objective(output, BATCH.label, TrainConfig(auxiliary_weight=0.1), None)

    function = jax.jit(jax.value_and_grad(loss))
    lowered = function.lower(variables["params"])
    return lowered.compile()(variables["params"]), lowered.as_text().count("dot_general")


def test_bf16_computes_nearly_the_same_and_keeps_fp32_gradients():
    (loss, exact), _ = gradient("none")
    (half, found), _ = gradient("none", "bfloat16")
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, loss, rtol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    ours, theirs = (np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (found, exact))
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_rematerialisation_changes_work_and_no_result():
    (expected, plain), *others = (gradient(remat) for remat in ("none", "products", "layers"))
    for found, products in others:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected
        )
        assert products >= plain
    assert others[1][1] > others[0][1]
