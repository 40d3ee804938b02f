"""Vision encoders from files: the models PyTorch computes, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from emojax.errors import DataError
from emojax.interop.vision import read_vision_encoder
from emojax.nn.encoders.vgg import DEPTHS
from tests.goldens.make_mobilenet import FOLDER

WEIGHTS = FOLDER / "model.safetensors"
WIDTHS, HIDDEN, SIZE = (4, 6, 8, 8, 10), 12, 64


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def vgg(torch):
    """A small VGG-16 as torchvision builds it: the stages, and a classifier of three layers."""
    torch.manual_seed(0)
    stages, channels = [], 3
    for depth, width in zip(DEPTHS, WIDTHS, strict=True):
        for _ in range(depth):
            stages += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU()]
            channels = width
        stages.append(torch.nn.MaxPool2d(2))
    places = (SIZE // 32) ** 2
    classifier = [
        torch.nn.Linear(places * channels, HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(),
        torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.ReLU(), torch.nn.Dropout(),
        torch.nn.Linear(HIDDEN, 3),
    ]  # fmt: skip
    model = torch.nn.Module()
    model.features = torch.nn.Sequential(*stages)
    model.classifier = torch.nn.Sequential(*classifier)
    return model.eval()


def crops(count: int = 3, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def theirs(torch, model, crops: np.ndarray, colours) -> np.ndarray:
    """fc7 of the crops, scaled as the weights want them."""
    x = (crops / 255 - colours.mean) / colours.deviation
    x = x[..., ::-1] if colours.blue_first else x
    x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32))
    with torch.no_grad():
        return model.classifier[:5](model.features(x).flatten(1)).numpy()


def face_names(state: dict) -> dict:
    """A VGG-Face state dict of one of torchvision's layout."""
    places = [f"conv{s}_{p}" for s, depth in enumerate(DEPTHS, 1) for p in range(1, depth + 1)]
    olds = sorted({int(name.split(".")[1]) for name in state if name.startswith("features")})
    modules = {f"features.{old}": new for old, new in zip(olds, places, strict=True)}
    modules |= {"classifier.0": "fc6", "classifier.3": "fc7", "classifier.6": "fc8"}
    return {
        f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in state.items()
    }


@pytest.mark.parametrize("layout", ["torchvision", "vgg_face", "vgg_face_apart"])
def test_vgg_is_that_of_torch(torch, vgg, tmp_path: Path, layout: str):
    state = vgg.state_dict()
    if layout != "torchvision":
        state = face_names(state)
    if layout == "vgg_face_apart":
        state = {name.replace("conv", "conv_"): value for name, value in state.items()}
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    encoder = read_vision_encoder(path)
    assert encoder.name == ("vgg16 of torchvision" if layout == "torchvision" else "VGG-Face")
    assert (encoder.size, encoder.width) == (SIZE, HIDDEN)
    wanted = theirs(torch, vgg, crops(), encoder.colours)
    scale = np.abs(wanted).max()
    assert scale > 0.01
    np.testing.assert_allclose(encoder.encode(crops()), wanted, rtol=0, atol=1e-5 * max(1, scale))


def test_vgg_face_reads_bgr_less_its_means(torch, vgg, tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save(face_names(vgg.state_dict()), path)
    colours = read_vision_encoder(path).colours
    rgb = np.array([255.0, 10.0, 0.0])
    scaled = ((rgb / 255 - colours.mean) / colours.deviation)[::-1]
    np.testing.assert_allclose(scaled, [0 - 93.5940, 10 - 104.7624, 255 - 129.1863], rtol=1e-9)


def torchvision_names(tensors: dict) -> dict:
    """Torchvision's names for a MobileNetV2 of Hugging Face's, block by block."""
    parts = {
        "expand_1x1": ("conv.0.0", "conv.0.1"), "conv_3x3": ("conv.1.0", "conv.1.1"),
        "reduce_1x1": ("conv.2", "conv.3"),
    }  # fmt: skip
    stem = {"first_conv": ("0.0", "0.1"), "conv_3x3": ("1.conv.0.0", "1.conv.0.1"),
            "reduce_1x1": ("1.conv.1", "1.conv.2")}  # fmt: skip
    names = {}
    for name in tensors:
        *where, kind, leaf = name.split(".")
        if where[0] == "conv_stem":
            pair = stem[where[1]]
        elif where[0] == "conv_1x1":
            pair = ("18.0", "18.1")
        else:
            pair = tuple(f"{int(where[1]) + 2}.{part}" for part in parts[where[2]])
        names[name] = f"features.{pair[kind == 'normalization']}.{leaf}"
    return {names[name]: value for name, value in tensors.items()}


def test_mobilenet_in_torchvisions_layout_differs_in_padding_and_epsilon_alone(tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    save_file(torchvision_names(load_file(WEIGHTS)), path)
    hugging_face, encoder = read_vision_encoder(WEIGHTS), read_vision_encoder(path)
    config = encoder.module.config
    assert (config.padding, config.epsilon, config.multiplier) == ("centred", 1e-5, 0.1)
    assert hugging_face.module.config.padding == "same"
    jax.tree.map(np.testing.assert_array_equal, encoder.variables, hugging_face.variables)


def test_batches_change_nothing():
    encoder = read_vision_encoder(WEIGHTS, 32)
    given = crops(19, 32)
    whole = encoder.encode(given)
    assert whole.shape == (19, encoder.width)
    alone = np.concatenate([encoder.encode(each[None]) for each in given[14:]])
    np.testing.assert_allclose(alone, whole[14:], rtol=0, atol=1e-6)
    assert encoder.encode(given[:0]).shape == (0, encoder.width)


def without(tensors):
    tensors.pop("layer.3.conv_3x3.normalization.running_var")


def misshapen(tensors):
    tensors["layer.3.conv_3x3.convolution.weight"] = np.zeros((8, 2, 3, 3), np.float32)


def infinite(tensors):
    tensors["conv_1x1.normalization.bias"][0] = np.inf


def negative(tensors):
    tensors["conv_1x1.normalization.running_var"][0] = -1


def no_multiplier(tensors):
    tensors["conv_stem.first_conv.convolution.weight"] = np.zeros((4096, 3, 3, 3), np.float32)


def strange(tensors):
    values = dict(tensors)
    tensors.clear()
    tensors |= {f"odd.{name}": value for name, value in values.items()}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without, ["running_var", "missing"]),
        (misshapen, ["layer.3.conv_3x3", "(8, 2, 3, 3)"]),
        (infinite, ["conv_1x1.normalization.bias", "finite"]),
        (negative, ["running_var", "negative"]),
        (no_multiplier, ["conv_stem.first_conv", "multiplier"]),
        (strange, ["conv1_1.weight", "missing", "VGG-Face"]),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, spoil, words):
    tensors = load_file(WEIGHTS)
    spoil(tensors)
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    with pytest.raises(DataError) as caught:
        read_vision_encoder(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not weights at all", WEIGHTS.read_bytes()[:500]])
def test_what_is_no_weights_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "weights"
    path.write_bytes(content)
    with pytest.raises(DataError, match="neither safetensors nor"):
        read_vision_encoder(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_vision_encoder(tmp_path / "nowhere")
