"""How far a ReDiFu could scale on TPU v5e if compute and interconnect ran at their peaks.

    python -m experiments.aot_scaling --out runs/aot_scaling

Compiles the real train step (`emojax aot`) for 1, 4, 16, 64 and 256 chips: the default model with
rows divided over all of them, and `experiments/large.toml`, whose state is divided over up to 16
chips and copied beyond. Each chip keeps the same share of the batch, so an ideal machine takes the
same time for every step. No TPU is needed, and none was asked: these are limits that follow from
the compiled programs, not measurements. A point of the default model costs half a minute of two
cores, one of the large 2 to 10 minutes and 6 GB; a point that is there already is not compiled
again. Writes scaling.json, scaling.md and scaling.png.

Of a step on n chips, each with peak F (FLOP/s, bf16), memory bandwidth M and ring bandwidth R
(bytes/s; one port each way of the chip's four):

    compute(n)  = max(FLOPs / F, bytes accessed / M)
    exchange(n) = sum over collectives of b bytes (a chip's operand) in groups of g chips:
        all-gather          (g - 1) b / R
        reduce-scatter      (g - 1) / g b / R
        all-reduce        2 (g - 1) / g b / R
        all-to-all          g b / (4 R)       a quarter of the ring is the average way
        permute             2 b / R           one link, one way
    t(n)          = max(compute, exchange) if all of it overlaps, compute + exchange if none
    efficiency(n) = t(n0) / t(n), n0 the fewest chips on which the model fits

v5e: F = 197e12, M = 819e9, R = 400e9 / 4 = 100e9 (`emojax.dist.slices.CHIPS` names the source).
FLOPs are XLA's count and what the Pallas kernels declare, into which XLA does not look. Not in it:
latency of a collective (microseconds, which is what counts for the default model), contention
between rings of different axes, work below the peaks, reading the data.

Expected (README has the table). Default model: 96 % from 4 to 256 chips, the gradient's all-reduce
(1.4 MB) being small beside 2 ms of reading and writing memory. Large model: no fewer than 4 chips
hold its state, and there each chip reads and writes four times as much of it as on 16, so that more
chips come to 120 % if all exchange overlaps, and to 94 to 103 % if none does.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from emojax.config import digest, from_dict, load, override
from emojax.dist.aot import DoesNotFit
from emojax.dist.slices import CHIPS, GIB, parse_slice
from emojax.train.aot import aot, stand_in
from experiments import command

SLICES = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
ROW = 120
IEMOCAP = {"widths": (1024, 1582, 342), "classes": 6, "speakers": 10}
CHIP = CHIPS["v5e"]


def settings(model: str, chips: int) -> tuple[dict[str, Any], list[str]]:
    """Values of a config file, and what is set on top of them, for a number of chips."""
    rows = {"default": 4, "large": 16}[model]
    batch = [f"data.buckets=[{ROW}]", f"data.batch_utterances={rows * ROW * chips}"]
    if model == "default":
        return {}, [*batch, f"mesh.data={chips}"]
    fsdp = min(chips, 16)
    values = load(Path(__file__).with_name("large.toml"))
    return values, [*batch, f"mesh.data={chips // fsdp}", f"mesh.fsdp={fsdp}"]


def point(model: str, chips: int, folder: Path) -> dict[str, Any]:
    """The report of a model on so many chips, compiled now unless it is there already."""
    config = from_dict(override(*settings(model, chips)))
    path = folder / f"{model}_{chips}.json"
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["digest"] == digest(config):
            return known
    where = parse_slice(f"{CHIP.name}:{SLICES[chips]}")
    try:
        report = aot(config, where, stand_in(config.data, **IEMOCAP))
    except DoesNotFit as error:
        report = {"why": str(error)}
    report |= {"model": model, "chips": chips, "digest": digest(config)}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def exchange(collective: dict[str, Any]) -> float:
    """Seconds of all its executions, by the formulas above."""
    group, size = collective["group"], collective["bytes"] / CHIP.ring_bandwidth
    seconds = {
        "all-gather": (group - 1) * size,
        "reduce-scatter": (group - 1) / group * size,
        "all-reduce": 2 * (group - 1) / group * size,
        "all-to-all": group * size / 4,
        "collective-permute": 2 * size,
    }[collective["kind"]]
    return seconds * (collective["times"] or 1)


def times(report: dict[str, Any]) -> dict[str, float]:
    """Seconds of a step, in parts and as a whole."""
    (program,) = report["programs"]
    flops = program["flops"] + program["kernel_flops"]
    arithmetic, memory = flops / CHIP.flops, program["bytes"] / CHIP.hbm_bandwidth
    compute = max(arithmetic, memory)
    sent = sum(exchange(each) for each in program["each_collective"])
    return {
        "arithmetic": arithmetic, "memory": memory, "exchange": sent,
        "overlapped": max(compute, sent), "in turn": compute + sent,
    }  # fmt: skip


def summarise(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each point of a model, fewest chips first."""
    rows: list[dict[str, Any]] = []
    base: dict[str, float] = {}
    for report in reports:
        row = {name: report[name] for name in ("model", "chips")}
        if "why" in report:
            rows.append(row | {"why": report["why"]})
            continue
        (program,) = report["programs"]
        found = times(report)
        base = base or found
        rows.append(row | {
            "mesh": {axis: size for axis, size in report["mesh"].items() if size > 1},
            "parameters": report["parameters"],
            "rows": program["rows"],
            "memory": program["memory"]["total"],
            "flops": program["flops"],
            "kernel_flops": program["kernel_flops"],
            "bytes": program["bytes"],
            "collectives": program["collectives"],
            "seconds": found,
            "efficiency": {way: base[way] / found[way] for way in ("overlapped", "in turn")},
            "compile_seconds": program["compile_seconds"],
        })  # fmt: skip
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| Model | Chips | Mesh | Memory per chip | TFLOP per chip | GB accessed | Collectives: "
        "bytes of operands | Compute, exchange (ms) | Efficiency, overlapped / in turn |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "why" in row:
            lines.append(f"| {row['model']} | {row['chips']} | " + "does not fit | " + "| " * 6)
            continue
        mesh = ", ".join(f"{axis} {size}" for axis, size in row["mesh"].items()) or "one device"
        said = "; ".join(
            f"{name} {entry['count']} x, {entry['bytes'] / 1e6:,.1f} MB"
            for name, entry in row["collectives"].items()
        )
        seconds, efficiency = row["seconds"], row["efficiency"]
        compute = max(seconds["arithmetic"], seconds["memory"])
        lines.append(
            f"| {row['model']} | {row['chips']} | {mesh} | {row['memory'] / GIB:.2f} GiB | "
            f"{(row['flops'] + row['kernel_flops']) / 1e12:.3g} | {row['bytes'] / 1e9:.3g} | "
            f"{said or 'none'} | {1e3 * compute:.2f}, {1e3 * seconds['exchange']:.2f} | "
            f"{efficiency['overlapped']:.1%} / {efficiency['in turn']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for model, colour in (("default", "#0072b2"), ("large", "#d55e00")):
        mine = [row for row in rows if row["model"] == model and "why" not in row]
        if not mine:
            continue
        chips = [row["chips"] for row in mine]
        size = mine[0]["parameters"]
        label = f"{model}, {size / 1e9:.2f} B" if size > 1e9 else f"{model}, {size / 1e6:.1f} M"
        for way, style in (("overlapped", "-"), ("in turn", "--")):
            share = [100 * row["efficiency"][way] for row in mine]
            left.plot(chips, share, style, marker="o", color=colour, label=f"{label}: {way}")
        memory = [row["memory"] / GIB for row in mine]
        right.plot(chips, memory, marker="o", color=colour, label=label)
    right.axhline(
        CHIP.hbm / GIB, color="black", linewidth=1, linestyle=":", label="a chip's memory"
    )
    left.set(title="Weak scaling that peaks allow", ylabel="efficiency (%)", ylim=(0, None))
    right.set(title="Memory per chip", ylabel="GiB", yscale="log")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(SLICES), [str(chips) for chips in SLICES])
        axes.set_xlabel(f"chips of TPU {CHIP.name}")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = command.parser("experiments.aot_scaling", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["default", "large"])
    parser.add_argument("--chips", nargs="+", type=int, default=list(SLICES))
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    rows = []
    for model in options.models:
        reports = [point(model, chips, options.out / "points") for chips in options.chips]
        rows += summarise(reports)
    (options.out / "scaling.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    table = markdown(rows)
    (options.out / "scaling.md").write_text(table, encoding="utf-8")
    plot(rows, options.out / "scaling.png")
    print(table)


if __name__ == "__main__":
    sys.exit(main())
