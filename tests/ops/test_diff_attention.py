"""One suite for every implementation of differential attention: values, gradients, limits.

The oracle is the definition in fp64 with masks made pair by pair; a public fp32 and bf16 attention
says how large rounding errors may be.
"""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.pallas.mosaic.interpret import interpret_pallas_call
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from emojax.ops.diff_attention import blocks, differential_attention, gpu_blocks, gpu_rows
from emojax.ops.diff_attention.reference import masked_softmax
from emojax.ops.diff_attention.shapes import SMALL, Shape
from emojax.ops.random import keep_pair, seeds
from tests.ops import oracles

# On a GPU, from JAX 0.11 on: it still compiles what it says will have to move to Mosaic.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning")
DEVICE = {"pallas_tpu": "tpu", "pallas_gpu": "gpu"}
KERNELS = tuple(DEVICE)
IMPLEMENTATIONS = ("reference", "xla", *KERNELS)
CASES = {
    "plain": ("odd", "none", {}),
    "plain, causal": ("odd", "none", {"causal": True}),
    "temporal": ("odd", "temporal", {}),
    "temporal, window": ("shared keys", "temporal", {"window": 1}),
    "temporal, causal window of one": ("odd", "temporal", {"causal": True, "window": 0}),
    "temporal, one utterance": ("one utterance", "temporal", {}),
    "dual, scaled": ("wide values", "dual", {"scale": 0.3}),
    "dual, causal window": ("one key head", "dual", {"causal": True, "window": 2}),
    "lambda per token": ("shared keys", "v2", {}),
    "several blocks": ("several blocks", "dual", {}),
    "several blocks, causal": ("several blocks", "v2", {"causal": True}),
    "several blocks, window": ("several blocks", "v2", {"window": 11}),
}
LAMBDA = {"temporal": lambda s: (s.heads,), "dual": lambda s: (), "v2": lambda s: per_token(s)}


def per_token(shape: Shape) -> tuple[int, ...]:
    return shape.rows, shape.length, shape.heads


@pytest.fixture(autouse=True, scope="module")
def full_precision():
    """Where products of fp32 are rounded by default, nothing could be said of the operator."""
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def small_blocks():
    """Rows of more than one block, at lengths that a test can afford."""
    table = {
        "xla": {"default": [{"map_elements": 4096}]},
        "pallas_tpu": {"default": [{"query": 128, "key": 128, "whole_row": 128}]},
        "pallas_gpu": {"default": [{"query": 32, "key": 64, "whole_row": 64}]},
    }
    with blocks.instead(table):
        yield


def run(implementation, x, segment, dtype=jnp.float32, **options):
    """The operator as a model calls it; a kernel step by step, unless its device is here."""
    here = DEVICE.get(implementation) == jax.default_backend()
    return differential_attention(
        **{n: jnp.asarray(y, jnp.float32 if n == "lam" else dtype) for n, y in x.items()},
        segment=jnp.asarray(segment), implementation=implementation,
        interpret=implementation in KERNELS and not here, **options,
    )  # fmt: skip


def packed(shape: Shape, draw) -> np.ndarray:
    """Rows of conversations one after another, padding at their end; the first row is full."""
    segment = np.zeros((shape.rows, shape.length), np.int32)
    for row in range(shape.rows):
        used = shape.length - row * shape.length // 4
        cuts = np.sort(draw.choice(used, size=min(3, used), replace=False))
        segment[row, :used] = 1 + np.searchsorted(cuts, np.arange(used))
    return segment


def inputs(shape: Shape, variant: str, draw) -> dict[str, np.ndarray]:
    query = (shape.rows, shape.length, shape.heads, shape.width)
    key = (shape.rows, shape.length, shape.shared, shape.width)
    shapes = {"q": query, "k": key, "v": (*key[:3], shape.values)}
    if variant != "none":
        shapes["lam"] = LAMBDA[variant](shape)
    if variant in ("dual", "v2"):
        shapes |= {"q2": query, "k2": key}
    return {name: np.asarray(draw.normal(size=size)) for name, size in shapes.items()}


@functools.lru_cache
def case(name: str):
    """Arguments, segments, options, and the fp64 value and gradients of a weighted sum."""
    draw = np.random.default_rng(1)
    shape, variant, options = CASES[name]
    shape = SMALL[shape]
    x, segment = inputs(shape, variant, draw), packed(shape, draw)
    weight = draw.normal(size=(*per_token(shape), shape.values))
    return x, segment, options, weight, *definition(x, segment, weight, **options)


def definition(x, segment, weight, **options):
    """Value and gradients of the definition, fp64; where rows see nothing both are zero."""

    def scalar(x):
        value = oracles.dense_attention(**x, segment=segment, **options)
        return (value * weight).sum(), value

    with jax.enable_x64(True):
        double = {n: jnp.asarray(np.float32(y), jnp.float64) for n, y in x.items()}
        (_, value), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(double)
        return np.asarray(value), jax.tree.map(np.asarray, gradients)


def derive(implementation, x, segment, weight, dtype=jnp.float32, **options):
    def scalar(x):
        value = run(implementation, x, segment, dtype, **options).astype(jnp.float32)
        return (value * weight.astype(np.float32)).sum(), value

    single = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}
    (_, value), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(single)
    return np.asarray(value), jax.tree.map(np.asarray, gradients)


def assert_close(found, wanted, tolerance: float) -> None:
    """Values are, and gradients relative to the largest entry if that is above 1."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=tolerance)
    for argument, gradient in wanted[1].items():
        scale = max(1, np.abs(gradient).max())
        np.testing.assert_allclose(
            found[1][argument], gradient, rtol=0, atol=tolerance * scale, err_msg=argument
        )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_definition(name, implementation):
    x, segment, options, weight, value, gradients = case(name)
    assert_close(derive(implementation, x, segment, weight, **options), (value, gradients), 3e-6)


def test_the_dense_oracle_is_the_definition_element_by_element():
    x, segment, options, *_, value, _ = case("dual, causal window")
    x = {n: np.float64(np.float32(y)) for n, y in x.items()}
    x |= {n: np.repeat(x[n], 3, axis=2) for n in ("k", "k2", "v")}
    wanted = oracles.differential_attention(**x, segment=segment, **options)
    np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_errors_are_no_larger_than_those_of_two_public_attentions(implementation, dtype, causal):
    draw = np.random.default_rng(5)
    shape = Shape(2, 160, 4, 2, 32, 32)
    x = inputs(shape, "v2", draw)
    x = {n: np.asarray(jnp.asarray(y, dtype), np.float64) for n, y in x.items()}
    x["lam"] = np.float64(np.float32(x["lam"]))
    segment = np.ones((2, 160), np.int32)
    weight = np.asarray(jnp.asarray(draw.normal(size=x["q"].shape), dtype), np.float64)
    value, gradients = definition(x, segment, weight, causal=causal)

    def two(x):
        attend = functools.partial(jax.nn.dot_product_attention, is_causal=causal)
        typed = {n: jnp.asarray(y, jnp.float32 if n == "lam" else dtype) for n, y in x.items()}
        second = attend(typed["q2"], typed["k2"], typed["v"])
        y = attend(typed["q"], typed["k"], typed["v"]) - typed["lam"][..., None] * second
        return (y * weight.astype(np.float32)).sum(), y

    single = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}
    (_, public), theirs = jax.jit(jax.value_and_grad(two, has_aux=True))(single)
    found, ours = derive(implementation, x, segment, weight, dtype, causal=causal)

    def error(a, b):
        return np.sqrt(np.mean((np.asarray(a, np.float64) - b) ** 2))

    assert error(found, value) <= 1.5 * error(public, value)
    for name, wanted in gradients.items():
        assert error(ours[name], wanted) <= 1.5 * error(theirs[name], wanted), name


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[1:])
@pytest.mark.parametrize("name", ["several blocks, window", "plain, causal"])
def test_dropout_hits_the_same_entries_everywhere(implementation, name):
    x, segment, options, weight, _, _ = case(name)
    options = {**options, "drop_rate": 0.4, "key": jax.random.key(3)}
    wanted = derive("reference", x, segment, weight, **options)
    assert_close(derive(implementation, x, segment, weight, **options), wanted, 5e-6)


def test_dropout_falls_on_the_combined_map():
    x, segment, *_ = case("temporal")
    rows, length, heads, _ = x["q"].shape
    key, rate = jax.random.key(3), 0.4
    column = jnp.arange(length, dtype=jnp.int32)
    kept = keep_pair(seeds(key, rows, heads)[..., None, None], column[:, None], column, rate)
    keep = np.asarray(kept) / (1 - rate)
    assert abs((keep > 0).mean() - 0.6) < 0.02
    wanted = oracles.differential_attention(
        **{n: np.float64(np.float32(y)) for n, y in x.items()}, segment=segment, keep=keep
    )
    found = run("reference", x, segment, drop_rate=rate, key=key)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-6)


def test_dropout_is_spread_evenly():
    column = jnp.arange(2000, dtype=jnp.int32)
    kept = np.asarray(keep_pair(jnp.uint32(7), column[:, None], column, 0.25)).astype(float)
    # Means of rows, columns and products of neighbours, each within five deviations.
    deviation = np.sqrt(0.75 * 0.25 / 2000)
    assert np.abs(kept.mean(0) - 0.75).max() < 5 * deviation
    assert np.abs(kept.mean(1) - 0.75).max() < 5 * deviation
    for a, b in (
        (kept[1:], kept[:-1]),
        (kept[:, 1:], kept[:, :-1]),
        (kept[1:, 1:], kept[:-1, :-1]),
    ):
        assert abs((a * b).mean() - 0.75**2) < 5 * deviation / np.sqrt(2000)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padding_gets_zeros_and_zero_gradients(implementation):
    x, _, options, _, _, _ = case("lambda per token")
    segment = np.ones(x["q"].shape[:2], np.int32)
    segment[0, 12:], segment[1] = 0, 0
    # Cotangents so large that a division by the smallest number, unless masked, overflows.
    weight = np.full((*x["q"].shape[:3], x["v"].shape[-1]), 1e4)
    value, gradients = derive(implementation, x, segment, weight, **options)
    assert (value[segment == 0] == 0).all()
    for name, gradient in gradients.items():
        assert np.isfinite(gradient).all(), name
        assert (gradient[segment == 0] == 0).all(), name
        assert (gradient[0] != 0).any(), name


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_large_scores_do_not_overflow(implementation):
    x, segment, *_ = case("dual, scaled")
    x = {n: y if n == "lam" else 100 * y for n, y in x.items()}
    found = np.asarray(run(implementation, x, segment))
    double = {n: np.float64(np.float32(y)) for n, y in x.items()}
    wanted = oracles.differential_attention(**double, segment=segment)
    # Scores of 1e4 are known to 1e-3 in fp32, so only where one key wins clearly is y known.
    assert np.isfinite(found).all()
    close = np.isclose(found, wanted, rtol=0, atol=0.01 * np.abs(x["v"]).max())
    assert close.mean() > 0.95


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_twice_is_the_same_bit_by_bit(implementation):
    x, segment, options, *_ = case("several blocks, causal")
    options = {**options, "drop_rate": 0.3, "key": jax.random.key(0)}
    single = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}
    derivative = jax.jit(jax.grad(lambda x: run(implementation, x, segment, **options).sum()))
    once, again = (jax.device_get(derivative(single)) for _ in range(2))
    assert all((once[n] == again[n]).all() for n in x)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS[1:])
def test_lanes_of_one_program_are_as_many_calls(implementation):
    """Under `vmap`, as sweeps call it: each lane has its own arguments, segments and dropout."""
    x, segment, options, weight, *_ = case("temporal")
    options = {**options, "drop_rate": 0.3}
    scales, keys = jnp.array([1.0, 0.5]), jax.random.split(jax.random.key(0))
    segments = jnp.stack([jnp.asarray(segment), jnp.asarray(np.roll(segment, 1, axis=0))])
    single = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}

    def lane(scale, segment, key):
        def scalar(x):
            value = run(implementation, x, segment, key=key, **options)
            return (value * weight.astype(np.float32)).sum(), value

        scaled = jax.tree.map(lambda y: y * scale, single)
        (_, value), gradients = jax.value_and_grad(scalar, has_aux=True)(scaled)
        return value, gradients

    values, gradients = jax.jit(jax.vmap(lane))(scales, segments, keys)
    for n in range(2):
        wanted = jax.device_get(jax.jit(lane)(scales[n], segments[n], keys[n]))
        found = np.asarray(values[n]), {name: np.asarray(g[n]) for name, g in gradients.items()}
        assert_close(found, wanted, 5e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_part_of_the_queries_finds_what_it_finds_in_the_whole(implementation):
    x, segment, options, *_ = case("several blocks, window")
    options = {**options, "drop_rate": 0.2, "seed": seeds(jax.random.key(1), 1, 2)}
    whole = np.asarray(run(implementation, x, segment, **options))
    part = {n: y[:, 100:170] if n in ("q", "q2", "lam") else y for n, y in x.items()}
    attend = jax.jit(lambda first: run(implementation, part, segment, first=first, **options))
    np.testing.assert_allclose(attend(100), whole[:, 100:170], rtol=0, atol=2e-6)


class TestAnyPacking:
    """Whatever conversations share a row, each is as if it were alone."""

    shape = Shape(2, 24, 4, 2, 4, 4)

    @functools.cached_property
    def attend(self):
        def function(implementation, window, causal, x, segment):
            return run(implementation, x, segment, window=window, causal=causal)

        return jax.jit(function, static_argnums=(0, 1, 2))

    @pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
    @settings(max_examples=25, deadline=None)
    @given(
        cuts=st.lists(st.integers(1, 23), max_size=5),
        padding=st.integers(0, 10),
        window=st.sampled_from([None, 0, 5]),
        causal=st.booleans(),
        seed=st.integers(0, 2**31),
    )
    def test_is_the_definition(self, implementation, cuts, padding, window, causal, seed):
        draw = np.random.default_rng(seed)
        x = inputs(self.shape, "v2", draw)
        segment = np.ones((2, 24), np.int32)
        segment[0] += np.searchsorted(np.sort(cuts), np.arange(24), side="right")
        segment[0, 24 - padding :] = 0
        found = self.attend(implementation, window, causal, x, segment)
        double = {n: np.float64(np.float32(y)) for n, y in x.items()}
        double |= {n: np.repeat(double[n], 2, axis=2) for n in ("k", "k2", "v")}
        wanted = oracles.dense_attention(**double, segment=segment, window=window, causal=causal)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=5e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", ["several blocks, window", "lambda per token"])
def test_programs_of_the_tpu_kernels_do_not_race(name):
    x, segment, options, weight, _, _ = case(name)

    def scalar(x):
        y = differential_attention(
            **x, segment=jnp.asarray(segment), implementation="pallas_tpu",
            interpret=pltpu.InterpretParams(detect_races=True), **options,
        )  # fmt: skip
        return (y * weight.astype(np.float32)).sum()

    single = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}
    gradients = jax.jit(jax.grad(scalar))(single)
    jax.block_until_ready(gradients)
    assert not interpret_pallas_call.races.races_found


def test_race_detection_finds_a_race():
    def kernel(x, y):
        y[...] = x[...] + pl.program_id(0)

    double = pl.pallas_call(
        kernel, grid=(4,), out_shape=jax.ShapeDtypeStruct((8, 128), jnp.float32),
        in_specs=[pl.BlockSpec((8, 128), lambda i: (0, 0))],
        out_specs=pl.BlockSpec((8, 128), lambda i: (0, 0)),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=pltpu.InterpretParams(detect_races=True, num_cores_or_threads=2),
    )  # fmt: skip
    try:
        jax.block_until_ready(double(jnp.ones((8, 128))))
        assert interpret_pallas_call.races.races_found
    finally:
        pltpu.reset_tpu_interpret_mode_state()


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("name", ["several blocks, window", "plain, causal"])
def test_a_key_that_is_not_shown_is_seen_by_its_own_query_alone(implementation, name):
    x, segment, options, weight, _, _ = case(name)
    shown = np.random.default_rng(4).random(segment.shape) < 0.5
    wanted = definition(x, segment, weight, shown=shown, **options)
    found = derive(implementation, x, segment, weight, shown=jnp.asarray(shown), **options)
    assert_close(found, wanted, 3e-6)


def test_what_cannot_serve_says_why():
    x, segment, *_ = case("plain")
    typed = {n: jnp.asarray(y, jnp.float32) for n, y in x.items()}
    for name, device in (("pallas_tpu", "tpu"), ("pallas_gpu", "gpu")):
        with pytest.raises(NotImplementedError, match=f"{name} runs on a {device}.*for a cpu"):
            differential_attention(**typed, segment=jnp.asarray(segment), implementation=name)
        with pytest.raises(NotImplementedError, match=f"{name} shows every key"):
            differential_attention(
                **typed, segment=jnp.asarray(segment), shown=jnp.asarray(segment > 0),
                implementation=name, interpret=True,
            )  # fmt: skip
    half = {n: y.astype(jnp.float16) for n, y in typed.items()}
    with pytest.raises(NotImplementedError, match="fp32 and bf16, not with float16"):
        differential_attention(
            **half, segment=jnp.asarray(segment), implementation="pallas_tpu", interpret=True
        )


@pytest.mark.parametrize(
    ("dtype", "width", "values", "whole"),
    [
        (jnp.bfloat16, 64, 128, True), (jnp.float32, 32, 64, True), (jnp.float32, 33, 33, True),
        (jnp.float32, 64, 128, False), (jnp.float32, 64, 65, False),
    ],
)  # fmt: skip
def test_rows_too_wide_for_a_gpu_s_shared_memory_go_block_by_block(
    monkeypatch, dtype, width, values, whole
):
    chosen = []

    def attend(x, call, kernels):
        chosen.append(kernels)
        return jnp.zeros((*x.q.shape[:3], x.v.shape[-1]), x.v.dtype)

    monkeypatch.setattr("emojax.ops.diff_attention.pallas_gpu.attend", attend)
    x = inputs(Shape(1, 128, 1, 1, width, values), "dual", np.random.default_rng(0))
    run("pallas_gpu", x, np.ones((1, 128), np.int32), dtype)
    assert chosen == [gpu_rows if whole else gpu_blocks]


def test_a_second_map_needs_all_its_parts():
    x, segment, *_ = case("dual, scaled")
    for missing in ("q2", "k2", "lam"):
        rest = {name: value for name, value in x.items() if name != missing}
        with pytest.raises(ValueError, match="q2, k2 and lam together"):
            run("xla", rest, segment)


def test_heads_must_share_keys_evenly():
    x, segment, *_ = case("plain")
    x = {**x, "q": np.concatenate([x["q"], x["q"][:, :, :1]], axis=2)}
    with pytest.raises(ValueError, match="3 query heads cannot share 2 key heads"):
        run("xla", x, segment)


def test_the_table_of_block_sizes_is_whole():
    table = json.loads(blocks.TABLE.read_text())
    for implementation, kinds in table.items():
        for kind, entries in {"some new chip": kinds["default"], **kinds}.items():
            assert "length" not in entries[-1], kind
            for length in (1, 100, 10**6):
                found = blocks.tuned(implementation, kind, length)
                assert found if implementation == "xla" else blocks.Blocks(**found)


def test_masked_softmax_is_softmax_of_what_is_left():
    draw = np.random.default_rng(0)
    scores, mask = 50 * draw.normal(size=(40, 9)), draw.random((40, 9)) < 0.4
    mask[:5] = False
    ours = np.asarray(jax.jit(masked_softmax)(jnp.asarray(scores, jnp.float32), mask))
    wanted = np.zeros_like(scores)
    for row, (values, seen) in enumerate(zip(scores, mask, strict=True)):
        wanted[row, seen] = scipy.special.softmax(values[seen]) if seen.any() else 0
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=2e-5)
    assert (ours[~mask] == 0).all()


def test_the_oracle_agrees_with_a_case_done_by_hand():
    one = np.ones((1, 2, 1, 1))
    v = np.array([2.0, 4.0]).reshape(1, 2, 1, 1)
    y = oracles.differential_attention(one, one, v, np.array(0.5), segment=np.ones((1, 2), int))
    # First map uniform, mean 3; second map sees only column 1 (key 0 moved on), 0.5 x 4.
    assert y.ravel().tolist() == [1.0, 1.0]
