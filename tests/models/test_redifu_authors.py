"""`redifu_authors` against the published implementation, and what we promise beyond it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.extend.core import jaxprs_in_params

from emojax.config import Config, DataConfig, RedifuAuthorsConfig
from emojax.errors import ConfigError
from emojax.interop.authors import from_state_dict
from emojax.interop.golden import TOLERANCES, check
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.nn.published.layers import linear
from emojax.ops.losses import cross_entropy
from emojax.types import MODALITIES, Signature
from tests.batches import SIGNATURE, pack, random_conversation, random_variables

GOLDENS = Path(__file__).parent.parent / "goldens"
SMALL = RedifuAuthorsConfig(width=16, heads=4, window=3)
CONVERSATIONS = [random_conversation(seed, length) for seed, length in enumerate([6, 2, 4])]
BATCH = pack([[conversation] for conversation in CONVERSATIONS], 6)
REAL = np.asarray(BATCH.segment) > 0


@pytest.mark.parametrize("branch", ["iemocap", "meld"])
def test_computes_what_the_published_implementation_computes(branch):
    errors = check(GOLDENS / f"redifu_{branch}_branch.npz")
    assert errors.keys() == TOLERANCES.keys()
    for name, error in errors.items():
        assert error <= TOLERANCES[name], name


@pytest.fixture(scope="module")
def small():
    """(model, variables, output by batch) at random parameters."""
    model = build(SMALL, SIGNATURE)
    variables = random_variables(model, BATCH)
    return model, variables, jax.jit(lambda batch: model.apply(variables, batch))


def test_capacity_changes_nothing_but_the_work(small):
    # That the gradients agree as well is shown by the goldens, which set a capacity.
    *_, run = small
    assert int(REAL.sum()) == 12 < REAL.size
    output, less = run(BATCH), run(BATCH.replace(capacity=13))
    for name in ("logits", "modality_logits"):
        ours, wanted = (np.asarray(getattr(o, name)) for o in (less, output))
        np.testing.assert_allclose(ours[REAL], wanted[REAL], rtol=0, atol=1e-5)
        assert np.isfinite(ours).all()


def test_longer_rows_change_nothing(small):
    """What is published as the padded length is `extent`; columns beyond it do not exist."""
    model, variables, run = small
    longer = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (0, 3)] + [(0, 0)] * (x.ndim - 2)), BATCH)
    longer = longer.replace(
        label=jnp.where(longer.segment > 0, longer.label, -1),
        extent=jnp.full(len(REAL), REAL.shape[1]),
    )

    def loss(params, batch):
        logits = model.apply(variables | {"params": params}, batch).logits
        return cross_entropy(logits, batch.label)

    real = np.asarray(longer.segment) > 0
    np.testing.assert_allclose(run(longer).logits[real], run(BATCH).logits[REAL], atol=1e-5)
    ours, wanted = (jax.jit(jax.grad(loss))(variables["params"], b) for b in (longer, BATCH))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), ours, wanted)


def test_a_missing_modality_is_a_zero_feature(small):
    *_, run = small
    assert not np.asarray(BATCH.present)[REAL].all()
    zeroed = {
        m: jnp.where(BATCH.present[:, :, [i]], getattr(BATCH, m), 0)
        for i, m in enumerate(MODALITIES)
    }
    everything = BATCH.replace(**zeroed, present=jnp.ones_like(BATCH.present))
    np.testing.assert_array_equal(run(BATCH).logits, run(everything).logits)


def test_dropout_needs_its_key(small):
    model, variables, run = small
    still = np.asarray(run(BATCH).logits)[REAL]
    train = jax.jit(lambda key: model.apply(variables, BATCH, rngs={"dropout": key}).logits)
    one, again, two = (np.asarray(train(jax.random.key(i)))[REAL] for i in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.isfinite(one).all()
    assert not np.allclose(one, two)
    assert not np.allclose(one, still)


def test_half_precision_stays_close(small):
    _, variables, run = small
    half = build(dataclasses.replace(SMALL, dtype="bfloat16"), SIGNATURE)
    shapes = jax.eval_shape(half.init, jax.random.key(0), BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    exact, ours = run(BATCH).logits, jax.jit(half.apply)(variables, BATCH).logits
    assert ours.dtype == jnp.float32
    difference = np.abs(np.asarray(ours - exact))[REAL].max()
    assert 0 < difference < 0.1 * np.abs(exact).max()


def largest(jaxpr):
    """Entries of the largest array of a jaxpr, the jaxprs inside it included."""
    sizes = [
        math.prod(v.aval.shape)
        for equation in jaxpr.eqns
        for v in (*equation.invars, *equation.outvars)
        if hasattr(v.aval, "shape")
    ]
    inner = [largest(sub) for equation in jaxpr.eqns for sub in jaxprs_in_params(equation.params)]
    return max([*sizes, *inner], default=0)


@pytest.mark.parametrize("branch", ["iemocap", "meld"])
def test_nothing_of_size_length_squared_times_width_is_built(branch):
    length = width = 96
    model = build(RedifuAuthorsConfig(branch=branch, width=width, heads=4), SIGNATURE)
    batch = pack([[random_conversation(0, length)]], length)
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch)

    def loss(params, batch, key):
        statistics = identity_statistics(SIGNATURE.widths)
        variables = {"params": params, "statistics": statistics}
        output = model.apply(variables, batch, rngs={"dropout": key})
        return cross_entropy(output.logits, batch.label)

    trace = jax.make_jaxpr(jax.grad(loss))(shapes["params"], batch, jax.random.key(0))
    assert largest(trace.jaxpr) < length**2 * width

    # The published way to score an edge, to see that such an array would be found.
    def pairs(h):
        one, two = jnp.broadcast_to(h[:, None], (length, length, width)), h[None]
        return jnp.tanh(one + two).sum()

    assert largest(jax.make_jaxpr(jax.jit(pairs))(jnp.zeros((length, width))).jaxpr) >= (
        length**2 * width
    )


def test_a_packed_row_is_refused_before_anything_is_compiled():
    with pytest.raises(ConfigError, match=r"data\.layout must be \"padded\""):
        Config(model=RedifuAuthorsConfig())
    Config(model=RedifuAuthorsConfig(), data=DataConfig(layout="padded"))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("config", "audio", "classes", "speakers", "published"),
    [
        (RedifuAuthorsConfig(), 1582, 6, 2, 45_632_150),
        (RedifuAuthorsConfig("redifu_authors", "meld", 256, 16, 25), 300, 7, 9, 11_480_467),
    ],
    ids=["iemocap", "meld"],
)
def test_has_as_many_parameters_as_published(config, audio, classes, speakers, published):
    signature = Signature(
        "x", tuple(map(str, range(classes))), tuple(map(str, range(speakers))), (1024, audio, 342)
    )
    batch = pack([[random_conversation(0, 2, signature=signature)]], 2)
    shapes = jax.eval_shape(build(config, signature).init, jax.random.key(0), batch)
    # Three scales in each of the IEMOCAP branch's two rotary embeddings are never read.
    unread = {"iemocap": 6, "meld": 0}[config.branch]
    assert count(shapes["params"]) == published - unread


@pytest.mark.parametrize("branch", ["iemocap", "meld"])
def test_every_published_tensor_with_a_gradient_is_one_of_ours(branch):
    with np.load(GOLDENS / f"redifu_{branch}_branch.npz") as golden:
        arrays = {name: golden[name] for name in golden.files}
    state = {n.removeprefix("param/"): x for n, x in arrays.items() if n.startswith("param/")}
    trained = {n.removeprefix("grad/") for n in arrays if n.startswith("grad/")}
    shared = "gatTer.attentions.0.relation_embedding.weight"  # another name of the same table
    np.testing.assert_array_equal(state[shared], state["relation_embedding.weight"])
    expected = sum(state[name].size for name in trained - {shared})
    assert count(from_state_dict(state)) == expected
    unread = {n: x.size for n, x in state.items() if n not in trained and "relation" not in n}
    scales = {n: size for n, size in unread.items() if n.endswith("modality_scales")}
    assert sum(scales.values()) == {"iemocap": 6, "meld": 0}[branch]
    tables = ("inv_freq", "pos_emb.pe")
    assert all(n in scales or n.endswith(tables) for n in unread)


def test_affine_layers_start_as_those_of_pytorch():
    """Uniform within 1 / sqrt(inputs), kernel and bias alike, as `torch.nn.Linear` is."""
    x = jnp.zeros((1, 400))

    class One(nn.Module):
        @nn.compact
        def __call__(self, x):
            return linear(x, 300, "layer")

    params = One().init(jax.random.key(0), x)["params"]["layer"]
    for name, shape in (("kernel", (400, 300)), ("bias", (300,))):
        values = np.asarray(params[name])
        assert values.shape == shape
        assert abs(values).max() <= 1 / 20
        assert scipy.stats.kstest(values.ravel() * 20, "uniform", (-1, 2)).pvalue > 1e-3
