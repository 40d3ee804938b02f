"""ONNX files say what JAX says, of batches of any size."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.config import MODELS, from_dict
from emojax.errors import DataError
from emojax.interop.onnx import OnnxModel, convert, to_onnx
from emojax.interop.onnx_quantize import quantised, quantize_onnx
from emojax.interop.serving import INPUTS, OUTPUTS
from emojax.models.registry import build
from emojax.ops.target import target
from tests.batches import SIGNATURE, random_variables
from tests.interop import served

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def exported(name, folder):
    model, variables, _ = served.made(name)
    with served.open_sizes():
        return to_onnx(model, variables, model.signature, folder / "model.onnx")


@pytest.fixture(scope="module", params=served.CONFIGS)
def written(request, tmp_path_factory):
    """(name, file) of each model."""
    return request.param, exported(request.param, tmp_path_factory.mktemp(request.param))


def test_it_says_what_jax_says_of_batches_of_any_size(written):
    name, path = written
    assert served.largest_difference(name, OnnxModel(path)) < served.TOLERANCE


@pytest.mark.parametrize("name", served.VARIANTS)
def test_it_says_what_jax_says_of_variants(name, tmp_path):
    path = exported(name, tmp_path)
    one = "side by side" if name.startswith("redifu_authors") else "packed"
    assert served.largest_difference(name, OnnxModel(path), one) < served.TOLERANCE


def test_it_is_one_file_that_tells_what_it_is(written):
    name, path = written
    assert list(path.parent.iterdir()) == [path]
    content = onnx.load(path)
    onnx.checker.check_model(content, full_check=True)
    axes = {
        x.name: [size.dim_param or size.dim_value for size in x.type.tensor_type.shape.dim]
        for x in (*content.graph.input, *content.graph.output)
    }
    assert tuple(axes) == INPUTS + OUTPUTS
    assert axes["text"] == ["batch", "length", 7]
    assert axes["modality_probability"] == ["batch", "length", 3, 4]
    about = {entry.key: json.loads(entry.value) for entry in content.metadata_props}
    assert tuple(about["labels"]) == SIGNATURE.labels == OnnxModel(path).labels
    assert tuple(about["speakers"]) == SIGNATURE.speakers
    assert tuple(about["widths"]) == SIGNATURE.widths
    assert from_dict(about["config"], MODELS[name]) == served.CONFIGS[name]


def test_it_computes_in_fp32_and_leaves_everything_as_it_was(tmp_path):
    model, variables, _ = served.made("redifu")
    config = dataclasses.replace(model.config, dtype="bfloat16")
    half = build(config, SIGNATURE)
    before = target(), jax.config.values.copy()
    with served.open_sizes():
        path = to_onnx(half, variables, SIGNATURE, tmp_path / "half.onnx")
    assert served.largest_difference("redifu", OnnxModel(path), "packed") < served.TOLERANCE
    assert half.config == config
    assert (target(), jax.config.values) == before


def test_missing_values_have_no_influence(tmp_path):
    served_by = OnnxModel(exported("redifu", tmp_path))
    given = dict(zip(INPUTS, served.arrays(served.batch_of(*served.PACKED)), strict=True))
    wanted = served_by(*given.values())
    for i, modality in enumerate(INPUTS[:3]):
        missing = ~given["present"][..., [i]]
        given[modality] = np.where(missing, np.float32(np.nan), given[modality])
    for one, other in zip(wanted, served_by(*given.values()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """(file, the same with int8 weights) of a redifu of the default size."""
    folder = tmp_path_factory.mktemp("wide")
    model = build(from_dict({"causal": True}, MODELS["redifu"]), SIGNATURE)
    variables = random_variables(model, served.batch_of(*served.PACKED))
    with served.open_sizes():
        path = to_onnx(model, variables, SIGNATURE, folder / "model.onnx")
    return path, quantize_onnx(path, folder / "small.onnx")


def test_a_quantised_file_is_a_third_and_near(wide):
    path, small = wide
    assert small.stat().st_size < path.stat().st_size / 3
    onnx.checker.check_model(onnx.load(small), full_check=True)
    given = served.arrays(served.batch_of(*served.PACKED))
    for one, other in zip(OnnxModel(path)(*given), OnnxModel(small)(*given), strict=True):
        assert 0 < np.abs(one - other).max() < 0.02
    assert OnnxModel(small).labels == SIGNATURE.labels
    quantize_onnx(path, path.with_name("again.onnx"))
    assert path.with_name("again.onnx").read_bytes() == small.read_bytes()
    assert len(list(path.parent.iterdir())) == 3


def test_quantised_or_not_a_conversation_depends_on_itself_alone(wide):
    model = OnnxModel(wide[1])
    talk, loud = served.CONVERSATIONS[0], served.random_conversation(9, 12)
    loud = dataclasses.replace(loud, **{m: 1e3 * getattr(loud, m) for m in INPUTS[:3]})
    alone = model(*served.arrays(served.pack([[talk]], 24)))[0][0, : len(talk)]
    beside = model(*served.arrays(served.pack([[talk, loud], [loud]], 24)))[0][0, : len(talk)]
    np.testing.assert_allclose(beside, alone, rtol=0, atol=1e-6)


def test_matrices_are_rounded_to_the_nearest():
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(300, 7)).astype(np.float32) * np.arange(7, dtype=np.float32)
    for array in (matrix, matrix[:20]):
        whole, scale = quantised(array)
        assert whole.dtype == np.int8
        assert scale.shape == (() if array is not matrix else (7,))
        assert (np.abs(whole * scale - array) <= 0.5001 * scale).all()
        largest = np.abs(whole.astype(int)).max(0 if scale.ndim else None)
        assert (largest[1:] == 127).all() if scale.ndim else largest == 127


def test_a_file_that_cannot_be_written_is_said_to_be(tmp_path):
    model, variables, _ = served.made("single")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        to_onnx(model, variables, SIGNATURE, tmp_path / "file" / "model.onnx")


def _running(x):
    def step(state, y):
        return 0.5 * state + y, (state, 2 * state)

    return jax.lax.scan(step, jnp.zeros(x[:, 0].shape), jnp.swapaxes(x, 0, 1), reverse=True)


def _blocks(x, blocks):
    spare = 3 * blocks - x.shape[1]
    return jnp.pad(x, ((0, 0), (0, spare), (0, 0))).reshape(x.shape[0], blocks, 3, 4).sum(2)


OPERATIONS = {
    "backwards": lambda x: jnp.flip(x, 1),
    "all but the first": lambda x: x[:, 1:],
    "all but the last": lambda x: x[:, :-1],
    "a part": lambda x: x[:, :, 1:3],
    "one place": lambda x: x[:, :, 2],
    "every other": lambda x: x[..., 1::2],
    "every other of the first": lambda x: x[..., 0:3:2],
    "columns moved": lambda x: jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=2.0),
    "a column of each row": lambda x: jax.vmap(
        lambda row: jax.lax.dynamic_slice_in_dim(row, (row.sum() > 0).astype(jnp.int32), 1)
    )(x),
    "one place changed": lambda x: jax.lax.dynamic_update_index_in_dim(x, x[:, :1], 1, 1),
    "outer product": lambda x: jnp.einsum("bli,blj,blk->blijk", x, x, x),
    "columns by columns": lambda x: jnp.einsum("bid,bjd->bij", x, x),
    "two axes summed": lambda x: jnp.einsum("bid,bid->b", x, x),
    "a mean over columns": lambda x: x.mean(1),
    "reshaped": lambda x: x.reshape(-1, 2, 2).reshape(*x.shape[:2], 4),
    "turned": lambda x: x.transpose(1, 0, 2).reshape(x.shape[1], -1),
    "numbers of columns": lambda x: x * jnp.arange(x.shape[1])[:, None] / x.shape[1],
    "numbers from columns": lambda x: x * (x.shape[1] % 3) + (-x.shape[1] // 3),
    "blocks of columns": lambda x: _blocks(x, (x.shape[1] + 2) // 3),
    "rows beside rows": lambda x: jnp.einsum(
        "bid,hbjd->hbij", x, jnp.broadcast_to(x * 2, (3, *x.shape))
    ),
    "sums over repetitions": lambda x: jnp.einsum(
        "bid,jd->bij", jnp.broadcast_to(x[..., :1], (*x.shape[:2], 3)), jnp.ones((5, 3))
    ),
    "a choice of truths": lambda x: jnp.where(x > 0, x < 1, x > -1) * 1.0,
    "largest so far": lambda x: jax.lax.cummax((x * 4).astype(jnp.int32)[..., 0], axis=1),
    "least from here": lambda x: jax.lax.cummin(
        (x * 4).astype(jnp.int32), axis=1, reverse=True
    ),
    "sum so far": lambda x: jnp.cumsum(x, 1),
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "gelu": lambda x: jax.nn.gelu(x, approximate=False) + jax.nn.gelu(x),
    "powers": lambda x: x**2 + x**3 + x**-2,
    "parts": lambda x: jnp.concatenate(jnp.split(x, [1, 3], -1)[::-1], -1),
    "side by side": lambda x: jnp.stack([x, x + 1], 1),
    "repeated": lambda x: jnp.concatenate([jnp.zeros((*x.shape[:2], 1)), x], -1),
    "a loop backwards": _running,
    "a constant": lambda x: jnp.eye(3)[None] @ jnp.ones((3, 3)),
    "the input itself": lambda x: (x, x),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(name):
    function = OPERATIONS[name]
    x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b, l"), 4), jnp.float32)
    program = jax.make_jaxpr(lambda x: jax.tree.leaves(function(x)))(x)
    outputs = [f"y{i}" for i in range(len(program.out_avals))]
    content = convert(program, ["x"], outputs, "operation")
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content.SerializeToString())
    for shape in ((2, 5, 4), (3, 3, 4), (1, 2, 4)):
        array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        wanted = jax.tree.leaves(function(array))
        for one, other in zip(wanted, session.run(None, {"x": array}), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_nothing_is_computed_twice_and_constants_are_computed_now():
    x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b, l"), 4), jnp.float32)
    weight = np.ones((4, 4), np.float32)

    def function(x):
        return jnp.tanh(x @ (weight.T * 2)) + jax.jit(jnp.tanh)(x @ (weight.T * 2))

    content = convert(jax.make_jaxpr(function)(x), ["x"], ["y"], "twice")
    assert [node.op_type for node in content.graph.node] == ["MatMul", "Tanh", "Add", "Identity"]


def test_an_operation_that_is_not_told_is_named():
    with pytest.raises(NotImplementedError, match="operation sort"):
        convert(jax.make_jaxpr(jnp.sort)(jnp.ones(3)), ["x"], ["y"], "sorted")


def test_what_no_output_needs_is_left_out():
    x = jax.ShapeDtypeStruct((3,), jnp.float32)

    def function(x):
        _ = jnp.sin(x) + np.float32(7)
        return jnp.cos(x)

    content = convert(jax.make_jaxpr(function)(x), ["x"], ["y"], "unused")
    assert [node.op_type for node in content.graph.node] == ["Cos", "Identity"]
    assert not content.graph.initializer


def _norm(epsilon=1e-5, width=4):
    scale, bias = np.arange(1.0, 5.0, dtype=np.float32), np.float32([0.5, 0, -1, 2])

    def norm(x):
        centred = x - x.sum(-1, keepdims=True) / width
        variance = jnp.square(centred).sum(-1, keepdims=True) / width
        return centred * jax.lax.integer_pow(jnp.sqrt(variance + epsilon), -1) * scale + bias

    return norm


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_norm(), ["LayerNormalization"]),
        # Something else in its clothes.
        (_norm(width=5), None),
        (lambda x: x[..., 1] + 1, ["Gather", "Add"]),
        (lambda x: x[..., 1][..., None] * x, ["Slice", "Mul"]),
        (lambda x: x.max(1)[:, None], ["ReduceMax"]),
        (lambda x: x[:, None, :, None] + 1, ["Unsqueeze", "Add"]),
        (lambda x: x + jnp.ones(4), ["Add"]),
    ],
)
def test_there_are_shorter_words(function, told):
    x = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("b, l"), 4), jnp.float32)
    content = convert(jax.make_jaxpr(function)(x), ["x"], ["y"], "words")
    found = [node.op_type for node in content.graph.node][:-1]
    assert "LayerNormalization" not in found if told is None else found == told
    array = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(content.SerializeToString())
    (y,) = session.run(None, {"x": array})
    np.testing.assert_allclose(y, function(array), rtol=1e-5, atol=1e-6)
