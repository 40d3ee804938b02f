"""`emojax aot`: compiling for devices that are not here."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from emojax.cli.parsing import command, integers, read_config, settings_options


def add(commands: Any) -> None:
    aot = command(
        commands, "aot", _aot, "compile the train step for a TPU slice that is not here",
        "Reports memory per device, FLOPs, bytes and collectives. Needs libtpu and no TPU. Exits\n"
        "with 1 if the config cannot fit, before compiling where its state alone is too large.\n\n"
        "examples:\n"
        "  emojax aot --topology v5e:4x4\n"
        "  emojax aot --topology v5e:16x16 --config large.toml --mesh data=4,fsdp=64",
    )  # fmt: skip
    aot.add_argument(
        "--topology", required=True, metavar="CHIP:SIDES", help="v5e:16x16, v5p:4x4x4, ..."
    )
    settings_options(aot)
    aot.add_argument(
        "--mesh", metavar="AXIS=N,...", help="short for --set mesh.AXIS=N of each, data=64,fsdp=4"
    )
    aot.add_argument("--data", metavar="SOURCE", help="a corpus whose shapes to take")
    aot.add_argument("--data-dir", metavar="DIR", help="short for --set data.data_dir=DIR")
    aot.add_argument(
        "--widths", default="1024,1582,342", metavar="T,A,V",
        help="widths of text, audio and visual features without --data (default: IEMOCAP's)",
    )  # fmt: skip
    aot.add_argument("--classes", type=int, default=6, metavar="N", help="without --data")
    aot.add_argument("--speakers", type=int, default=10, metavar="N", help="without --data")
    aot.add_argument(
        "--every-shape", action="store_true",
        help="compile for every shape of a batch, not for the largest alone",
    )  # fmt: skip
    aot.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")


def _aot(options: argparse.Namespace) -> int:
    # A TPU of this machine's own is not needed, and stays free for others.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from rich.console import Console

    from emojax.dist.slices import parse_slice
    from emojax.train.aot import aot, shapes_of, stand_in
    from emojax.train.aot_table import render

    axes = [part for part in (options.mesh or "").split(",") if part]
    options.overrides += [f"mesh.{axis.strip()}" for axis in axes]
    config, where = read_config(options), parse_slice(options.topology)
    if options.data:
        corpus = shapes_of(config.data)
    else:
        widths = integers("--widths", options.widths, 3)
        corpus = stand_in(config.data, widths, options.classes, options.speakers)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    report = aot(config, where, corpus, every_shape=options.every_shape)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    Console().print(render(report))
    return 0
