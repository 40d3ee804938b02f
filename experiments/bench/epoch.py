"""Seconds and memory of one training epoch at the published size, beside PyTorch's.

120 conversations with IEMOCAP's lengths (5,679 utterances, 10,592 places after padding), D = 512,
64 heads, batches of 16, dropout on, Adam with L2, fp32. Contenders:

  torch           straightforward PyTorch of the published model with split GAT logits, padded
  torch_compiled  the same through torch.compile; left out where there is no C++ compiler
  redifu_authors  emojax's version of the published model, on the same padded batches
  redifu          emojax's own model at that width and heads, conversations packed
  matmul          no epoch: the machine's fp32 matrix-product rate, the yardstick

Each runs in a process of its own, one after another: an untimed epoch that compiles and allocates,
then the timed ones, of which the median counts. `share` is the FLOPs of the model's own matrix
products (see `flops`) over seconds times the yardstick. Peak memory is the process's, compilation
and data included.

Cost: about 10 minutes on two idle cores, a third of it compilation; keep the machine idle.
Aim, against the published implementation's 120 s and 8.8 GB: `redifu_authors` at least 5 times
faster, `redifu` at least 10 times faster, both below 2.5 GB and faster than `torch`. Measured
(README): all of it, `redifu` 12 times faster than published and `redifu_authors` 6.5 times.

    python -m experiments.bench.epoch
    python -m experiments.bench.epoch --what redifu_authors --json
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import time
from typing import Any

from experiments import command

PUBLISHED_SECONDS, PUBLISHED_GB = 120.0, 8.8
EPOCHS = ("torch", "torch_compiled", "redifu_authors", "redifu")
CHOICES = ("matmul", *EPOCHS)


def peak_gigabytes() -> float:
    """Largest resident memory of this process so far (Linux counts in KiB, macOS in bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure(what: str, repeats: int) -> dict[str, Any]:
    """Time one contender in this process; `matmul` gives FLOP/s, the others an epoch."""
    from experiments.bench import contenders, workload

    if what == "matmul":
        rates = contenders.matrix_product_rates()
        needed = {
            "padded": contenders.authors_flops(lambda batch: batch.label.size),
            "without padding": contenders.real_flops(),
        }
        return {
            "what": what,
            "flops_per_second": rates,
            "best": max(rates.values()),
            "published_model_flops": needed,
        }
    contender = contenders.BUILDERS[what]()
    began = time.perf_counter()
    contender.epoch()
    warm_up = time.perf_counter() - began
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        loss = contender.epoch()
        seconds.append(time.perf_counter() - began)
    median = statistics.median(seconds)
    return {
        "what": what,
        "detail": contender.detail,
        "seconds": median,
        "all_seconds": seconds,
        "warm_up_seconds": warm_up,
        "conversations_per_second": workload.CONVERSATIONS / median,
        "peak_gb": peak_gigabytes(),
        "parameters": contender.parameters,
        "flops": contender.flops,
        "loss": loss,
    }


def run_apart(what: str, repeats: int) -> dict[str, Any]:
    """`measure` in a fresh process; its messages go to our stderr."""
    command = [sys.executable, "-m", "experiments.bench.epoch", "--what", what, "--json"]
    finished = subprocess.run(
        [*command, "--repeats", str(repeats)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(finished.stdout)


def compare(measured: dict[str, dict[str, Any]], rate: float) -> dict[str, dict[str, Any]]:
    """Each contender's share of the machine's rate, and its speed beside the others'.

    Of eager and compiled PyTorch the faster is the rival.
    """
    rival = min(m["seconds"] for name, m in measured.items() if name.startswith("torch"))
    return {
        name: m
        | {
            "share_of_rate": m["flops"] / m["seconds"] / rate,
            "times_faster_than_published": PUBLISHED_SECONDS / m["seconds"],
            "times_faster_than_torch": rival / m["seconds"],
        }
        for name, m in measured.items()
    }


def show(compared: dict[str, dict[str, Any]], matmul: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="One training epoch, 120 conversations, D 512, 64 heads, fp32")
    for column in (
        "", "seconds", "conv/s", "peak GB", "TFLOP", "share", "x published", "x torch", "how",
    ):  # fmt: skip
        table.add_column(column, justify="left" if column in ("", "how") else "right")
    table.add_row("published", f"{PUBLISHED_SECONDS:.1f}", "1.0", f"{PUBLISHED_GB:.1f}")
    for name, m in compared.items():
        table.add_row(
            name, f"{m['seconds']:.1f}", f"{m['conversations_per_second']:.1f}",
            f"{m['peak_gb']:.2f}", f"{m['flops'] / 1e12:.2f}", f"{m['share_of_rate']:.0%}",
            f"{m['times_faster_than_published']:.1f}", f"{m['times_faster_than_torch']:.2f}",
            m["detail"],
        )  # fmt: skip
    console = Console(width=max(120, Console().width))
    console.print(table)
    rates = ", ".join(f"{k} {v / 1e9:.0f}" for k, v in matmul["flops_per_second"].items())
    console.print(f"Matrix products, GFLOP/s: {rates}. The published model's own products:")
    for layout, flops in matmul["published_model_flops"].items():
        ideal = flops / matmul["best"]
        console.print(f"  {layout} {flops / 1e12:.2f} TFLOP, {ideal:.1f} s at the best rate")


def main() -> None:
    parser = command.parser("experiments.bench.epoch", __doc__)
    parser.add_argument("--what", choices=CHOICES, help="one of them, in this process")
    parser.add_argument("--repeats", type=int, default=3, help="timed epochs (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats must be at least 1")
    if arguments.what:
        result = measure(arguments.what, arguments.repeats)
        print(json.dumps(result, indent=None if arguments.json else 2))
        return

    matmul = run_apart("matmul", arguments.repeats)
    compiler = shutil.which("c++") or shutil.which("g++")
    names = [name for name in EPOCHS if compiler or name != "torch_compiled"]
    measured = {name: run_apart(name, arguments.repeats) for name in names}
    compared = compare(measured, matmul["best"])
    if arguments.json:
        print(json.dumps({"matmul": matmul, "epochs": compared}, indent=2))
    else:
        show(compared, matmul)


if __name__ == "__main__":
    main()
