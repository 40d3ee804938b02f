"""What each export format writes, and how what was written is run."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.errors import ConfigError
from emojax.interop.weights import SUFFIX, Weights, write
from emojax.train.run import Run

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Exported:
    """A model in a folder, and its runtime.

    Attributes:
      model: the file that holds the weights, or the first of those that do.
      run: inputs by name, [B, L, ...], to probability [B, L, C], in the runtime.
      facts: for the card: versions and the like.
      cannot: what it cannot do, a sentence each.
      usage: how it is run, for the card.
      quantised: whether it may differ from JAX by more than rounding.
      compiles: whether the runtime compiles it anew for each shape, which takes seconds.
      files: all that hold them, where there are several.
      finish: told the run and the card when all went well; writes what depends on them.
    """

    model: Path
    run: Callable[[Arrays], Any]
    facts: Mapping[str, Any]
    cannot: Sequence[str]
    usage: str
    quantised: bool = False
    compiles: bool = False
    files: Sequence[Path] = ()
    finish: Callable[[Run, Mapping[str, Any]], None] | None = None


def needs(package: str, extra: str) -> None:
    """Raises `ConfigError` if an optional package is not installed."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # what it would lie in is not there either
        found = None
    if found is None:
        raise ConfigError(f"this needs {package}: pip install 'emojax[{extra}]'")


def floats_only(quantize: str | None, format: str) -> None:
    if quantize:
        raise ConfigError(f"--quantize is for --format onnx and web, not {format}")


TEXT = "make features from recordings or transcripts: it takes those the model was trained on"
FASTER = (
    " With `options = onnxruntime.SessionOptions()` and "
    '`options.add_session_config_entry("session.disable_quant_qdq", "1")` as the second argument, '
    "weights become floats once, when the file is loaded, and not at every call."
)
AUTHORS = "hold several conversations in a row: as published, one conversation is one row"


def limits(weights: Weights, *others: str) -> list[str]:
    """What an export of this model cannot do."""
    found = [TEXT, *others]
    if weights.config.name == "redifu_authors":
        found.append(AUTHORS)
    if getattr(weights.config, "speaker_embedding", True):
        found.append(f"take speakers other than {', '.join(weights.signature.speakers)}")
    return found


def torch(weights: Weights, folder: Path, quantize: str | None) -> Exported:
    """Weights, and the one file that reads them."""
    floats_only(quantize, "torch")
    name = weights.config.name
    if name not in ("redifu", "redifu_authors"):
        raise ConfigError(
            f"{name} has no PyTorch module, only redifu and redifu_authors have. Its weights are a "
            "safetensors file all the same (emojax.save_pretrained), and --format onnx runs it"
        )
    needs("torch", "torch")
    from emojax.interop import torch_redifu

    path = write(folder / f"model{SUFFIX}", weights)
    shutil.copy(Path(torch_redifu.__file__), folder / "torch_redifu.py")
    try:
        run = reopen("torch", folder)
    except ValueError as error:  # names what the one file does not know, such as frames
        what = str(error).removeprefix(f"{path}: ")
        raise ConfigError(
            f"the PyTorch module cannot run this model ({what}); --format onnx can"
        ) from error
    if name == "redifu_authors":
        _published_state(weights, folder)
    return Exported(
        path, run, _versions("torch", "safetensors"),
        limits(weights, "train as the JAX model does: it has no feature mixing"),
        "`pip install torch safetensors numpy`, then\n\n```python\nimport torch_redifu\n\n"
        'model = torch_redifu.load("model.safetensors")\n'
        "torch_redifu.predict(model, {\"text\": text, \"speaker\": [0, 1]})\n```",
    )  # fmt: skip


def reopen(format: str, folder: Path) -> Callable[[Arrays], Any]:
    """What runs the export in a folder, in its runtime: inputs by name to probability [B, L, C]."""
    if format == "torch":
        return _torch_runner(folder / f"model{SUFFIX}")
    model: Callable[..., Any]
    if format == "stablehlo":
        from emojax.interop.stablehlo import load_stablehlo

        model = load_stablehlo(folder / "model.stablehlo")
    elif format == "iree":
        from emojax.interop.iree import IreeModel

        model = IreeModel(folder)
    else:
        from emojax.interop.onnx import OnnxModel

        model = OnnxModel(folder / "model.onnx")
    return lambda arrays: model(*arrays.values())[0]


def _torch_runner(path: Path) -> Callable[[Arrays], Any]:
    import torch

    from emojax.interop import torch_redifu

    module = torch_redifu.load(path)

    def run(arrays: Arrays) -> np.ndarray:
        tensors = {name: torch.from_numpy(np.array(x)) for name, x in arrays.items()}
        for name in ("speaker", "segment"):
            tensors[name] = tensors[name].long()
        with torch.inference_mode():
            return module(**tensors)[0].softmax(-1).numpy()

    return run


def _published_state(weights: Weights, folder: Path) -> None:
    """The state dict for the authors' own scripts."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(folder / f"model{SUFFIX}")
    state = {
        name.removeprefix("params."): x for name, x in tensors.items() if name.startswith("params.")
    }
    torch.save(state, folder / "state_dict.pt")


def onnx(weights: Weights, folder: Path, quantize: str | None) -> Exported:
    """One ONNX file with everything in it."""
    needs("onnx", "onnx")
    needs("onnxruntime", "onnx")
    from emojax.interop.onnx import to_onnx
    from emojax.interop.onnx_quantize import quantize_onnx

    path = folder / "model.onnx"
    to_onnx(weights.build(), _on_device(weights), weights.signature, path)
    facts: dict[str, Any] = {"Opset": opset(path), **_versions("onnxruntime", "onnx")}
    if quantize:
        whole = path.stat().st_size
        quantize_onnx(path, path)
        facts["Weights"] = f"int8, {path.stat().st_size / whole:.1%} of the file with floats"
    return Exported(
        path, reopen("onnx", folder),
        facts, limits(weights),
        "`pip install onnxruntime numpy`, then\n\n```python\nimport numpy as np, onnxruntime\n\n"
        'example = dict(np.load("example.npz"))\nexpected = example.pop("probability")\n'
        'session = onnxruntime.InferenceSession("model.onnx")\n'
        'print(abs(session.run(["probability"], example)[0] - expected).max())\n```'
        + FASTER * bool(quantize),
        quantised=bool(quantize),
    )  # fmt: skip


def opset(path: Path) -> int:
    """Of an ONNX file."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return max(each.version for each in model.opset_import if each.domain == "")


def stablehlo(weights: Weights, folder: Path, quantize: str | None) -> Exported:
    """A program of XLA's for CPU, GPU and TPU, that `jax.export` reads."""
    floats_only(quantize, "stablehlo")
    needs("flatbuffers", "stablehlo")
    from emojax.interop.stablehlo import to_stablehlo

    path = folder / "model.stablehlo"
    to_stablehlo(weights.build(), _on_device(weights), weights.signature, path)
    return Exported(
        path, reopen("stablehlo", folder),
        {"Platforms": "cpu, cuda, tpu", **_versions("jax")},
        limits(weights, "be read by a JAX half a year older than that which wrote it"),
        "`pip install jax flatbuffers`, then\n\n```python\nimport jax.export, numpy as np\n\n"
        'example = dict(np.load("example.npz"))\nexpected = example.pop("probability")\n'
        'program = jax.export.deserialize(open("model.stablehlo", "rb").read())\n'
        "print(abs(program.call(*example.values())[0] - expected).max())\n```",
        compiles=True,
    )  # fmt: skip


def iree(weights: Weights, folder: Path, quantize: str | None) -> Exported:
    """Modules for CPUs, one for each length of a row."""
    floats_only(quantize, "iree")
    if weights.config.name == "redifu_authors":
        raise ConfigError(
            "redifu_authors looks at its batch mates' padding, and an IREE module takes one row at "
            "a time: it would be another model. Use --format onnx"
        )
    needs("iree.compiler", "iree")
    from emojax.interop.iree import LENGTHS, to_iree

    files = to_iree(weights.build(), _on_device(weights), weights.signature, folder)
    return Exported(
        files[0], reopen("iree", folder),
        {"Row lengths": ", ".join(map(str, LENGTHS)), **_versions("iree-base-runtime")},
        limits(weights, f"take conversations of more than {LENGTHS[-1]} utterances",
               "run on other kinds of processors than that which exported it"),
        "`pip install iree-base-runtime numpy`. A row is padded with zeros (segment 0) to the "
        "shortest length that holds it, one row a call:\n\n```python\nimport iree.runtime\n\n"
        'module = iree.runtime.load_vm_flatbuffer(\n    open("model_128.vmfb", "rb").read(), '
        'driver="local-task")\nprobability, _ = module.main(text, audio, visual, present, speaker, '
        "segment)\n```",
        files=files,
    )  # fmt: skip


def web(weights: Weights, folder: Path, quantize: str | None) -> Exported:
    """The ONNX file, its runtime for browsers, and a page."""
    from emojax.serve.web_folder import RUNTIME
    from emojax.serve.web_runtime import WebModel

    exported = onnx(weights, folder, quantize)
    facts = {**exported.facts, "Runtime": RUNTIME}
    if shutil.which("node"):
        tried: Callable[[Arrays], Any] = WebModel(exported.model)
        facts["Tried in"] = "ONNX Runtime Web, by Node.js, one thread"
    else:  # npm's package was put in its place by hand
        tried, facts["Tried in"] = exported.run, "ONNX Runtime for CPUs, as there is no Node.js"

    def finish(run: Run, card: Mapping[str, Any]) -> None:
        from emojax.serve.web_folder import describe, examples, write_web_folder

        model = exported.model.rename(folder / "exported.onnx")
        write_web_folder(folder, model, describe(run, weights, card), examples(run))
        model.unlink()

    usage = (
        "`python -m http.server` in this folder, then open the address that it says. Or put the "
        "folder on any static web server."
    )
    return dataclasses.replace(exported, run=tried, facts=facts, usage=usage, finish=finish)


FORMATS: dict[str, Callable[[Weights, Path, str | None], Exported]] = {
    "onnx": onnx, "stablehlo": stablehlo, "torch": torch, "web": web, "iree": iree,
}  # fmt: skip


def _on_device(weights: Weights) -> Any:
    return jax.device_put(dict(weights.variables))


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {f"Version of {package}": version(package) for package in packages}
