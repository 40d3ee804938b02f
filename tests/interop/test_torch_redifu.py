"""PyTorch's ReDiFus compute what ours compute, and files go both ways without losing a bit."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `torch`)")
safetensors = pytest.importorskip("safetensors.numpy")

from emojax.config import RedifuAuthorsConfig, RedifuConfig  # noqa: E402
from emojax.interop import torch_redifu  # noqa: E402
from emojax.interop.authors import from_state_dict  # noqa: E402
from emojax.models.registry import build  # noqa: E402
from emojax.ops.losses import cross_entropy  # noqa: E402
from emojax.types import MODALITIES, Signature  # noqa: E402
from tests.batches import SIGNATURE, pack, random_conversation, random_variables  # noqa: E402

GOLDENS = Path(__file__).parents[1] / "goldens"
SIZES = {"iemocap": 45_632_150, "meld": 11_480_467}

SMALL = RedifuConfig(width=12, heads=2, graph_heads=2, window=3, graph_layers=1)
CASES = {
    "deep": {"encoder_layers": 2, "graph_layers": 2, "diffusion_steps": 3, "width": 16},
    "causal": {"causal": True, "lambda_init": 0.3, "feed_forward_ratio": 3},
    "temporal": {"attention": "temporal", "cross_modal": "utterance", "gates": False},
    "causal temporal": {
        "attention": "temporal", "causal": True, "lambda_init": 0.8, "cross_modal": "none",
    },
    "v2": {"attention": "v2", "speaker_embedding": True, "modalities": ("text", "audio")},
    "plain, no graph, no chain": {
        "attention": "none", "graph_layers": 0, "chain": False, "delta": False,
    },
    "undiffused, one modality": {
        "diffusion_steps": 0, "modalities": ("visual",), "graph_heads": 3, "encoder_layers": 0,
        "speaker_relations": False,
    },
    "no guidance": {"text_guidance": False, "window": 0, "attention": "v2", "causal": True},
}  # fmt: skip
A, B, C, D = (random_conversation(seed, length) for seed, length in enumerate([6, 1, 4, 9]))
BATCH = pack([[A, B, C], [D], []], 24)


def statistics():
    """Of random features: nothing is left as it was."""
    draw = np.random.default_rng(5)
    return {
        f"{modality}_standardise": {
            "mean": draw.normal(size=width).astype(np.float32),
            "deviation": draw.uniform(0.5, 2, width).astype(np.float32),
        }
        for modality, width in zip(MODALITIES, SIGNATURE.widths, strict=True)
    }


def flat(collection):
    return {
        k: np.asarray(x) for k, x in flax.traverse_util.flatten_dict(collection, sep=".").items()
    }


def write(path, params, config, signature=SIGNATURE, numbers=None, metadata=()):
    """A file as emojax writes it."""
    numbers = flat(statistics()) if numbers is None else numbers
    tensors = {f"params.{k}": x for k, x in params.items()}
    tensors |= {f"statistics.{k}": x for k, x in numbers.items()}
    told = {
        "format": "emojax 1",
        "config": json.dumps(dataclasses.asdict(config)),
        "signature": json.dumps(dataclasses.asdict(signature)),
        "remark": "of no concern",
    }
    safetensors.save_file(tensors, path, told | dict(metadata))
    return path


def tensors(batch):
    names = (*MODALITIES, "present", "speaker", "segment", "position", "extent")
    given = {name: getattr(batch, name) for name in names}
    return {k: None if x is None else torch.tensor(np.asarray(x)) for k, x in given.items()}


def both_losses(model, variables, module, batch):
    """(logits, modality logits, gradients by name) of ours and of PyTorch's, of one loss."""

    def loss(params):
        output = model.apply(variables | {"params": params}, batch)
        each = jnp.moveaxis(output.modality_logits, 2, 0)
        total = cross_entropy(output.logits, batch.label)
        return total + sum(cross_entropy(x, batch.label) for x in each), output

    gradients, ours = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    logits, each = module(**tensors(batch))
    label = torch.tensor(np.asarray(batch.label)).long().flatten()
    scores = [logits, *each.unbind(2)]
    total = sum(
        torch.nn.functional.cross_entropy(x.flatten(0, 1), label, ignore_index=-1) for x in scores
    )
    total.backward()
    return (ours.logits, ours.modality_logits, gradients), (logits.detach(), each.detach())


def assert_close(ours, theirs, real):
    for a, b in zip(ours[:2], theirs, strict=True):
        np.testing.assert_allclose(b.numpy()[real], np.asarray(a)[real], rtol=0, atol=1e-5)
        assert b.isfinite().all()


def assert_gradients_close(ours, theirs):
    """Within 1e-4 of each tensor's largest; where that is nothing but rounding, within 1e-7."""
    assert ours.keys() == theirs.keys()
    for name, wanted in ours.items():
        tolerance = max(1e-4 * np.abs(wanted).max(), 1e-7)
        np.testing.assert_allclose(theirs[name], wanted, rtol=0, atol=tolerance, err_msg=name)


def same_bits(one, two):
    assert one.keys() == two.keys()
    for name, x in one.items():
        y = two[name]
        assert (x.shape, x.dtype, x.tobytes()) == (y.shape, y.dtype, y.tobytes()), name


def assert_round_trip(path, module, other):
    """A file written back is the file: all tensors to the bit, and all metadata."""
    torch_redifu.save(module, other)
    same_bits(safetensors.load_file(path), safetensors.load_file(other))
    with safetensors_open(path) as one, safetensors_open(other) as two:
        assert one.metadata() == two.metadata()


def safetensors_open(path):
    from safetensors import safe_open

    return safe_open(path, framework="numpy")


@pytest.mark.parametrize("case", CASES)
def test_redifu_computes_what_ours_does(case, tmp_path):
    config = dataclasses.replace(SMALL, **CASES[case])
    model = build(config, SIGNATURE)
    variables = random_variables(model, BATCH) | {"statistics": statistics()}
    path = write(tmp_path / "one.safetensors", flat(variables["params"]), config)
    module = torch_redifu.load(path)
    assert isinstance(module, torch_redifu.Redifu)
    ours, theirs = both_losses(model, variables, module, BATCH)
    assert_close(ours, theirs, np.asarray(BATCH.segment) > 0)
    gradients = {
        name: np.zeros_like(x.detach()) if x.grad is None else x.grad.numpy()
        for name, x in module.named_parameters()
    }
    assert_gradients_close(flat(ours[2]), gradients)

    assert_round_trip(path, module, tmp_path / "two.safetensors")
    state = {k: x.numpy() for k, x in module.state_dict().items()}
    kept = {f"statistics.{k}": x for k, x in flat(statistics()).items()}
    same_bits(state, flat(variables["params"]) | kept)


@pytest.fixture(scope="module", params=SIZES)
def golden(request):
    with np.load(GOLDENS / f"redifu_{request.param}_branch.npz") as file:
        return request.param, {name: file[name] for name in file.files}


def group(arrays, prefix):
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}


def published(branch, arrays):
    """(config, signature) of a golden."""
    c = json.loads(str(arrays["config"]))
    signature = Signature(
        "golden", tuple(map(str, range(c["n_classes"]))), tuple(map(str, range(c["n_speakers"]))),
        (c["d_text"], c["d_audio"], c["d_visual"]),
    )  # fmt: skip
    sizes = (c["hidden_dim"], c["n_head"], c["window"])
    return RedifuAuthorsConfig("redifu_authors", branch, *sizes), signature


def test_authors_match_the_golden(golden):
    branch, arrays = golden
    # emojax's own config and signature have the same fields.
    module = torch_redifu.RedifuAuthors(*published(branch, arrays)).eval()
    params = {k: torch.tensor(x) for k, x in group(arrays, "param/").items()}
    module.load_state_dict(params, strict=True)
    assert module.state_dict().keys() == params.keys()
    given = {k: torch.tensor(x) for k, x in group(arrays, "input/").items()}
    expected = {k: torch.tensor(x) for k, x in group(arrays, "output/").items()}
    mask = given["mask"] > 0
    present = mask[..., None].expand(-1, -1, 3)
    features = (given[modality] for modality in MODALITIES)
    logits, each = module(*features, present, given["speaker"], mask.int())
    label = given["label"].masked_fill(~mask, -1)
    loss = torch_redifu.published_loss(logits, each, label, given.get("class_weight"))
    loss.backward()

    def error(ours, theirs):
        return (ours - theirs).detach().abs()[mask].max().item()

    assert error(logits, expected["logits"]) <= 1e-5
    for m, modality in enumerate(MODALITIES):
        ours = each[:, :, m].log_softmax(-1)
        assert error(ours, expected[f"log_prob_{modality}"]) <= 1e-5
    assert abs(loss.item() - expected["loss"].item()) <= 5e-6
    # The shared relation table appears under more than one name.
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, theirs in group(arrays, "grad/").items():
        ours = parameters[name].grad.numpy()
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max(), name


def test_relations_match_the_golden(golden):
    _, arrays = golden
    window = json.loads(str(arrays["config"]))["window"]
    speaker, mask = (torch.tensor(arrays[f"input/{name}"]) for name in ("speaker", "mask"))
    same, cross = torch_redifu.relation_graphs(speaker, mask > 0, window)
    np.testing.assert_array_equal(same, arrays["input/self_relation"])
    np.testing.assert_array_equal(cross, arrays["input/cross_relation"])


def authors_file(golden, path, **changes):
    branch, arrays = golden
    config, signature = published(branch, arrays)
    draw = np.random.default_rng(0)
    numbers = {
        f"{m}_standardise.{name}": draw.uniform(0.5, 2, width).astype(np.float32)
        for m, width in zip(MODALITIES, signature.widths, strict=True)
        for name in ("mean", "deviation")
    }
    state = group(arrays, "param/") | changes
    return write(path, state, config, signature, numbers), config, signature, numbers


def test_authors_compute_what_ours_do_with_missing_values_and_longer_rows(golden, tmp_path):
    path, config, signature, numbers = authors_file(golden, tmp_path / "one.safetensors")
    module = torch_redifu.load(path)
    rows = [[random_conversation(i, n, signature=signature)] for i, n in enumerate([7, 3, 5])]
    # The last row's extent is beyond its conversation, as where a longer one stands beside it.
    batch = pack(rows, 10).replace(extent=jnp.asarray([7, 5, 8], jnp.int32))
    state = {k: x.numpy() for k, x in module.state_dict().items()}
    assert state.keys() == group(golden[1], "param/").keys()
    params = jax.tree.map(jnp.asarray, from_state_dict(state))
    collection = flax.traverse_util.unflatten_dict(numbers, sep=".")
    model = build(config, signature)
    variables = {"params": params, "statistics": collection}
    ours, theirs = both_losses(model, variables, module, batch)
    assert_close(ours, theirs, np.asarray(batch.segment) > 0)
    zeros = {k: torch.zeros_like(x) for k, x in module.state_dict().items()}
    named = {k: x.grad for k, x in module.named_parameters(remove_duplicate=False)}
    found = {k: (x if named.get(k) is None else named[k]).numpy() for k, x in zeros.items()}
    assert_gradients_close(flat(ours[2]), flat(from_state_dict(found)))
    assert_round_trip(path, module, tmp_path / "two.safetensors")


def test_authors_have_the_published_size():
    def of(classes, speakers, audio):
        names = tuple(map(str, range(9)))
        return Signature("x", names[:classes], names[:speakers], (1024, audio, 342))

    meld = RedifuAuthorsConfig("redifu_authors", "meld", 256, 16, 25)
    with torch.device("meta"):
        full = torch_redifu.RedifuAuthors(RedifuAuthorsConfig(), of(6, 2, 1582))
        small = torch_redifu.RedifuAuthors(meld, of(7, 9, 300))
    for module, branch in ((full, "iemocap"), (small, "meld")):
        assert sum(x.numel() for x in module.parameters()) == SIZES[branch]


def test_rows_may_be_longer_than_the_published_table():
    layer = torch_redifu.Sinusoidal(4, 8)
    x = torch.zeros(1, 12, 4)
    torch.testing.assert_close(layer(x)[:, :8], layer(x[:, :8]))


def test_configs_have_the_fields_and_defaults_of_ours():
    for ours, theirs in (
        (RedifuConfig, torch_redifu.RedifuConfig),
        (RedifuAuthorsConfig, torch_redifu.RedifuAuthorsConfig),
    ):
        assert dataclasses.asdict(ours()) == dataclasses.asdict(theirs())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(file, params, module) of a small model."""
    model = build(SMALL, SIGNATURE)
    params = flat(random_variables(model, BATCH)["params"])
    path = write(tmp_path_factory.mktemp("small") / "model.safetensors", params, SMALL)
    return path, params, torch_redifu.load(path)


def test_a_prediction_is_that_of_the_packed_batch(small):
    *_, module = small
    with torch.no_grad():
        logits, _ = module(**tensors(BATCH))
    wanted = logits.softmax(-1)[0, 7:11].numpy()
    # Arrays that came from jax cannot be written to, and PyTorch warns of such.
    given = {k: np.asarray(jnp.asarray(getattr(C, k))) for k in (*MODALITIES, "present", "speaker")}
    found = torch_redifu.predict(module, given)
    assert (found.shape, found.dtype) == ((4, 4), np.float32)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_what_is_not_given_is_missing(small):
    *_, module = small
    given = {"text": D.text, "audio": None, "speaker": D.speaker.tolist()}
    present = np.tile([True, False, False], (len(D), 1))
    whole = vars(D) | {"audio": np.full_like(D.audio, np.nan), "present": present}
    np.testing.assert_array_equal(
        torch_redifu.predict(module, given), torch_redifu.predict(module, whole)
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("audio", np.zeros((9, 4)), r"audio is \[9, 4\], not \[9, 5\]"),
        ("present", np.ones((8, 3)), r"present is \[8, 3\]"),
        ("speaker", None, "speaker is missing"),
        ("speaker", [], r"speaker is \[0\]"),
        ("text", np.full((9, 7), np.nan), "text has a value .* not finite"),
    ],
)
def test_a_conversation_that_does_not_fit_is_refused(small, field, value, message):
    with pytest.raises(ValueError, match=message):
        torch_redifu.predict(small[2], vars(D) | {field: value})


def test_an_unknown_speaker_is_refused_where_speakers_are_embedded(small):
    embeds = torch_redifu.Redifu(dataclasses.replace(SMALL, speaker_embedding=True), SIGNATURE)
    stranger = vars(D) | {"speaker": np.full(len(D), 3)}
    with pytest.raises(ValueError, match=r"speaker must be in 0 \.\.\. 2"):
        torch_redifu.predict(embeds.eval(), stranger)
    assert np.isfinite(torch_redifu.predict(small[2], stranger)).all()
    with pytest.raises(ValueError, match="training mode"):
        torch_redifu.predict(embeds.train(), vars(D))


def test_training_drops_and_hides(small):
    config = dataclasses.replace(
        SMALL, dropout=0.3, input_dropout=0.3, attention_dropout=0.3, modality_dropout=0.5
    )
    module = torch_redifu.Redifu(config, SIGNATURE)
    torch.manual_seed(0)
    module.train()
    one, two = (module(**tensors(BATCH))[0] for _ in range(2))
    assert one.isfinite().all()
    assert not torch.equal(one, two)

    given = tensors(BATCH)
    whole = torch.ones_like(given["present"])
    kept = module.hide_modalities(whole, given["segment"])
    assert kept.any(-1).all()
    assert not kept.all()
    first, second = kept[0, :6], kept[0, 7:11]
    assert (first == first[0]).all()
    assert (second == second[0]).all()
    torch.testing.assert_close(module.eval().hide_modalities(whole, given["segment"]), whole)


def changed(params, name, value):
    return {k: x for k, x in (params | {name: value}).items() if x is not None}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("head.kernel", np.zeros((36, 5), np.float32), r"params\.head\.kernel .*36, 5.*36, 4"),
        ("head.bias", np.zeros(4, np.float64), r"params\.head\.bias is torch\.float64 \[4\]"),
        ("head.bias", None, r"params\.head\.bias \[4\] is missing"),
        ("tail.bias", np.zeros(4, np.float32), r"params\.tail\.bias \[4\] is no part of the model"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(small, tmp_path, name, value, message):
    path = write(tmp_path / "odd.safetensors", changed(small[1], name, value), SMALL)
    with pytest.raises(ValueError, match=rf"odd\.safetensors: {message}"):
        torch_redifu.load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "emojax 2", "the format is 'emojax 2', not \"emojax 1\""),
        ("config", '{"name": "sdt"}', "the model is 'sdt', not one of redifu, redifu_authors"),
        ("config", '{"name": "redifu", "warp": 9}', "knows no config warp"),
        ("config", '{"name": "redifu", "attention": "odd"}', "config attention is 'odd'"),
        ("config", "{", "no 'config' that is a JSON object"),
        ("signature", "{}", "signature is not whole"),
    ],
)
def test_metadata_that_does_not_fit_is_named(small, tmp_path, key, value, message):
    path = write(tmp_path / "odd.safetensors", small[1], SMALL, metadata={key: value})
    with pytest.raises(ValueError, match=rf"odd\.safetensors: .*{message}"):
        torch_redifu.load(path)


def test_names_of_one_tensor_must_agree(golden, tmp_path):
    name = "gatT.out_att.relation_embedding.weight"
    other = np.zeros_like(golden[1][f"param/{name}"])
    path, *_ = authors_file(golden, tmp_path / "odd.safetensors", **{name: other})
    with pytest.raises(ValueError, match="differs from another name of the same tensor"):
        torch_redifu.load(path)


def test_what_is_no_file_of_ours_is_refused(small, tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(small[0].read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"odd\.safetensors cannot be read as safetensors"):
        torch_redifu.load(path)
    with pytest.raises(FileNotFoundError):
        torch_redifu.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="came from no file"):
        torch_redifu.save(torch_redifu.Redifu(SMALL, SIGNATURE), path)


ALONE = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("torch_redifu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
probability = module.predict(module.load(sys.argv[2]), {"speaker": [0, 1]})
assert abs(probability.sum(-1) - 1).max() < 1e-5
found = {name.split(".")[0] for name in sys.modules} & {"jax", "jaxlib", "flax", "emojax"}
assert not found, found
"""


def test_the_file_stands_alone(small):
    command = [sys.executable, "-c", ALONE, torch_redifu.__file__, str(small[0])]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
