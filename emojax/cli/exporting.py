"""`emojax export`, `emojax serve` and `emojax import-authors`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from emojax.cli.parsing import command


def add(commands: Any) -> None:
    export = command(
        commands, "export", _export, "write a trained run for another runtime",
        "Takes the epoch that validation chose. The model reads raw features; it is run there\n"
        "and then on validation conversations, and if it does not say what JAX says, nothing is\n"
        "left.\n\n"
        "formats:\n"
        "  onnx        one file for ONNX runtimes; batch and length are free\n"
        "  stablehlo   a program for XLA on CPU, GPU and TPU; read by jax alone\n"
        "  torch       safetensors and a PyTorch module in one file; redifu and redifu_authors\n"
        "  web         a folder with a page that runs in the browser and sends nothing anywhere\n"
        "  iree        modules for CPUs without JAX, one for each length of a row\n\n"
        "example:\n"
        "  emojax export runs/demo --format onnx --out exported --quantize int8",
    )  # fmt: skip
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument(
        "--format", required=True, choices=("onnx", "stablehlo", "torch", "web", "iree"),
    )  # fmt: skip
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument(
        "--quantize", choices=("int8",), help="smaller weights: a quarter, for onnx and web"
    )
    export.add_argument(
        "--causal",
        action="store_true",
        help="refuse a model that looks ahead in a "
        "conversation: what comes later must not change any probability, here and when exported",
    )

    show = command(
        commands, "serve", _serve, "show the page of a web export on this machine", "",
    )  # fmt: skip
    show.add_argument("folder", type=Path, metavar="DIR", help="what --format web wrote")
    show.add_argument("--port", type=int, default=8000, help="0 for any that is free (8000)")

    published = command(
        commands, "import-authors", _import_authors,
        "read a checkpoint of the published ReDiFu implementation",
        "CHECKPOINT is what torch.save wrote, a state dict or a whole module; nothing in it is\n"
        "run and PyTorch is not needed. The outcome is a safetensors file for emojax.load and\n"
        "for emojax/interop/torch_redifu.py. Features go in as the authors' scripts feed them.",
    )  # fmt: skip
    published.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    published.add_argument("--out", type=Path, required=True, metavar="FILE.safetensors")
    published.add_argument(
        "--labels", required=True, metavar="A,B,...", help="emotions in the checkpoint's order"
    )
    published.add_argument("--speakers", metavar="A,B,...", help="default: 0, 1, ...")
    published.add_argument(
        "--heads", type=int, default=64, help="which no tensor tells (default 64, as published)"
    )
    published.add_argument("--window", type=int, default=20, help="likewise (default 20)")


def _export(options: argparse.Namespace) -> int:
    from rich.console import Console

    from emojax.serve.export import export_run

    card = export_run(
        options.run_folder, options.format, options.out, Console(soft_wrap=True),
        quantize=options.quantize, causal=options.causal,
    )  # fmt: skip
    scores, times = card["validation_weighted_f1"], card["latency_ms"]
    print(f"Weighted F1 on validation: {scores['jax']:.4f} in JAX, {scores['exported']:.4f} here")
    print(f"One conversation: {times['p50']:.1f} ms (median); {card['bytes'] / 1e6:.2f} MB")
    print(f"Exported: {options.out}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    from emojax.serve.web_folder import serve_folder

    serve_folder(options.folder, options.port)
    return 0


def _import_authors(options: argparse.Namespace) -> int:
    from emojax.interop.published import import_checkpoint

    speakers = None if options.speakers is None else options.speakers.split(",")
    print(
        import_checkpoint(
            options.checkpoint, options.out, options.labels.split(","), speakers,
            heads=options.heads, window=options.window,
        )
    )  # fmt: skip
    return 0
