"""Products are counted as often as they happen, and against what the compiler counts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from emojax.config import RedifuAuthorsConfig, RedifuConfig
from emojax.config.baselines import BcLstmConfig, LateFusionConfig
from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate, smallest_batch
from emojax.evaluate.flops import per_conversation, traced
from emojax.models.registry import build
from tests.batches import SIGNATURE

WIDTHS = SIGNATURE.widths


def test_a_product_counts_forward_and_in_both_gradients():
    x, w = jnp.ones((3, 5, 7)), jnp.ones((7, 11))
    forward = 2 * 3 * 5 * 7 * 11
    assert traced(lambda x, w: x @ w, x, w) == forward
    loss = jax.grad(lambda x, w: jnp.sin(x @ w).sum(), argnums=(0, 1))
    assert traced(loss, x, w) == 3 * forward


def test_loops_count_each_turn_and_branches_the_dearest():
    x = jnp.ones((6, 6))
    once = 2 * 6**3
    repeated = jax.jit(lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=4)[0])
    assert traced(repeated, x) == 4 * once
    either = jax.jit(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x))
    assert traced(either, x) == 2 * once
    assert traced(jax.checkpoint(lambda x: x @ x), x) == once


def counted(config, length: int) -> int:
    model = build(config, SIGNATURE)
    variables = jax.eval_shape(model.init, jax.random.key(0), smallest_batch(WIDTHS))
    return per_conversation(model, variables, WIDTHS, length)


def test_a_recurrent_network_costs_what_its_equations_say():
    L, D, C = 9, 16, len(SIGNATURE.labels)

    def lstm(inputs: int) -> int:
        # From both ends, half of the units each, four gates from input and state.
        return 2 * L * (inputs + D // 2) * 4 * (D // 2) * 2

    inputs = sum(2 * L * width * D for width in WIDTHS)
    heads = 4 * 2 * L * D * C
    assert counted(BcLstmConfig(width=D), L) == inputs + 3 * lstm(D) + lstm(3 * D) + heads


@pytest.mark.parametrize("config", [
    RedifuConfig(width=16, heads=2, graph_heads=2), RedifuAuthorsConfig(width=16, heads=4),
], ids=lambda config: config.name)  # fmt: skip
def test_attention_costs_more_than_in_proportion_to_the_length(config):
    one, two = counted(config, 40), counted(config, 80)
    assert 2 * one < two < 4 * one


def test_without_a_loop_the_compiler_counts_the_same_products_and_little_else():
    config, length = LateFusionConfig(width=256), 12
    model = build(config, SIGNATURE)
    variables = jax.eval_shape(model.init, jax.random.key(0), smallest_batch(WIDTHS))
    batch = collate(BatchPlan(length, ((),)), (), WIDTHS)
    program = jax.jit(model.apply).lower(variables, batch).compile()
    ours = per_conversation(model, variables, WIDTHS, length)
    assert 0.85 < ours / program.cost_analysis()["flops"] < 1
