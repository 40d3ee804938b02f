"""Differential attention against what one would write without it, on the device at hand.

Contenders, each with the per-head norm of Diff Transformer (arXiv:2410.05258) behind it:

  emojax   `differential_attention`, as "auto" chooses it, or `--implementation`
  two      two calls of jax.nn.dot_product_attention, subtracted; queries and keys are filled up to
           the width of the values, which that function wants equal
  cudnn    the same through cuDNN's flash attention, on GPUs that have it
  plain    one call with heads as wide as the values: plain attention of equal parameters

Shapes are those of `emojax.ops.diff_attention.shapes`: 8 head pairs, 64 wide, conversations of 128,
512 and 4096 columns. Times are medians over rounds in which contenders take turns. Memory is what
XLA plans for temporaries and results; a contender that needs more than the device has is left out.
`share` is the least time that the device's peak rates allow (products of one pass over whole rows,
each array read and written once) over the time taken.

Cost: 20 minutes and 10 GB on two idle cores, under a minute on a GPU. Expected on a GPU or TPU:
`emojax` takes at most .75 of the time of `two` (not measured yet); on a CPU .57, .28 and .27 of the
time of `two`, forward and backward, with a third to a twentieth of its memory.

    python -m experiments.bench.diff_attention --out runs/bench/diff_attention
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from emojax.dist.compiler import compiler_options
from emojax.ops.diff_attention import differential_attention
from emojax.ops.diff_attention.shapes import SPECIFIED, Shape
from experiments import command
from experiments.bench import timing

Contender = Callable[..., Array]


def contenders(implementation: str) -> dict[str, Contender]:
    """Functions of q, k, q2, k2 [B, L, H, d], v [B, L, H, e] to [B, L, H, e]."""

    def norm(y: Array) -> Array:
        wide = y.astype(jnp.float32)
        scale = jnp.sqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-5)
        return (wide / scale).astype(y.dtype)

    def emojax(q: Array, k: Array, q2: Array, k2: Array, v: Array) -> Array:
        segment = jnp.ones(q.shape[:2], jnp.int32)
        return norm(
            differential_attention(
                q, k, v, jnp.float32(0.5), q2=q2, k2=k2, segment=segment,
                implementation=implementation,
            )
        )  # fmt: skip

    def public(name: str | None) -> Contender:
        def attend(q: Array, k: Array, v: Array) -> Array:
            spare = [(0, 0)] * 3 + [(0, v.shape[-1] - q.shape[-1])]
            return jax.nn.dot_product_attention(
                jnp.pad(q, spare), jnp.pad(k, spare), v, scale=q.shape[-1] ** -0.5,
                implementation=name,
            )  # fmt: skip

        return lambda q, k, q2, k2, v: norm(attend(q, k, v) - 0.5 * attend(q2, k2, v))

    def plain(q: Array, k: Array, q2: Array, k2: Array, v: Array) -> Array:
        q, k = jnp.concatenate([q, q2], -1), jnp.concatenate([k, k2], -1)
        return norm(jax.nn.dot_product_attention(q, k, v))

    known = {"emojax": emojax, "two": public(None), "plain": plain}
    if jax.default_backend() == "gpu":
        known["cudnn"] = public("cudnn")
    return known


def compiled(function: Contender, shape: Shape, dtype: Any, *, backward: bool) -> Any:
    """(a program without arguments, bytes it plans), or the reason why there is none."""
    keys = jax.random.split(jax.random.key(0), 6)
    size = (shape.rows, shape.length, shape.heads)
    widths = (*[shape.width] * 4, shape.values, shape.values)
    *x, weight = (
        jax.random.normal(key, (*size, width), dtype)
        for key, width in zip(keys, widths, strict=True)
    )

    def scalar(*x: Array) -> Array:
        return (function(*x).astype(jnp.float32) * weight.astype(jnp.float32)).sum()

    wanted = jax.grad(scalar, argnums=tuple(range(5))) if backward else function
    try:
        program = jax.jit(wanted, compiler_options=compiler_options()).lower(*x).compile()
        memory = program.memory_analysis()
        planned = memory.temp_size_in_bytes + memory.output_size_in_bytes
        if planned > _free():
            return f"needs {planned / 2**30:.1f} GiB"
        jax.block_until_ready(program(*x))
    except (jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError, ValueError) as error:
        return str(error).splitlines()[0][:80]
    return (lambda: program(*x)), planned


def _free() -> float:
    """Bytes that a program may plan."""
    stats = jax.devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if stats:
        return 0.9 * (stats["bytes_limit"] - stats["bytes_in_use"])
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure(
    shapes: list[Shape], dtype: Any, implementation: str, rounds: int, console: Console
) -> list[dict[str, Any]]:
    """One record for each shape, pass and contender."""
    best, records = timing.limit(dtype), []
    cases = [(shape, backward) for shape in shapes for backward in (False, True)]
    for shape, backward in track(cases, "measuring", console=console):
        programs, planned = {}, {}
        for name, function in contenders(implementation).items():
            made = compiled(function, shape, dtype, backward=backward)
            record = {
                "device": jax.devices()[0].device_kind, "dtype": jnp.dtype(dtype).name,
                "shape": str(shape), "rows": shape.rows, "columns": shape.length,
                "pass": "both" if backward else "forward", "contender": name,
            }  # fmt: skip
            records.append(record)
            if isinstance(made, str):
                record["failed"] = made
            else:
                programs[name], planned[name] = made
        seconds = timing.median(timing.in_turn(programs, rounds=rounds))
        least = best.seconds(
            shape.flops(backward=backward),
            shape.bytes(jnp.dtype(dtype).itemsize, backward=backward),
        )
        for record in records[-len(contenders(implementation)) :]:
            name = record["contender"]
            if name in seconds:
                record |= {
                    "seconds": seconds[name], "bytes": planned[name],
                    "share": least / seconds[name],
                    "of_two": seconds[name] / seconds["two"] if "two" in seconds else None,
                }  # fmt: skip
    return records


def table(records: list[dict[str, Any]]) -> Table:
    made = Table("B x L", "pass", "contender", "ms", "MiB", "share", "/ two")
    for r in records:
        place = f"{r['rows']} x {r['columns']}", r["pass"], r["contender"]
        if "failed" in r:
            made.add_row(*place, "-", "-", "-", r["failed"])
            continue
        ratio = "-" if r["of_two"] is None else f"{r['of_two']:.2f}"
        made.add_row(
            *place, f"{1e3 * r['seconds']:.2f}", f"{r['bytes'] / 2**20:.0f}", f"{r['share']:.0%}",
            ratio,
        )  # fmt: skip
    return made


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against length, forward and backward together."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    times, memory = figure.subplots(1, 2)
    both = [r for r in records if r["pass"] == "both" and "seconds" in r]
    for name in dict.fromkeys(r["contender"] for r in both):
        mine = [r for r in both if r["contender"] == name]
        x = [r["columns"] for r in mine]
        times.plot(x, [1e3 * r["seconds"] for r in mine], marker="o", label=name)
        memory.plot(x, [r["bytes"] / 2**20 for r in mine], marker="o", label=name)
    ticks = sorted({r["columns"] for r in both})
    for axes, label in ((times, "ms, forward and backward"), (memory, "MiB planned")):
        axes.set(xscale="log", yscale="log", xlabel="columns of a row", ylabel=label)
        axes.set_xticks(ticks, map(str, ticks), minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    times.legend(frameon=False)
    figure.suptitle(f"{both[0]['device']}, {both[0]['dtype']}" if both else "nothing was measured")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = command.parser("experiments.bench.diff_attention", __doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/diff_attention"))
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16"],
        help="default: float32 on a CPU, bfloat16 elsewhere",
    )  # fmt: skip
    parser.add_argument(
        "--implementation", default="auto", choices=["auto", "reference", "xla", "pallas_tpu",
                                                     "pallas_gpu"],
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="times each program is measured")
    parser.add_argument("--columns", type=int, nargs="*", help="only shapes of these lengths")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    shapes = [s for s in SPECIFIED if not arguments.columns or s.length in arguments.columns]
    if not shapes:
        parser.error(f"--columns: there are {', '.join(str(s.length) for s in SPECIFIED)}")
    console = Console()
    dtype = arguments.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    records = measure(shapes, dtype, arguments.implementation, arguments.rounds, console)
    arguments.out.mkdir(parents=True, exist_ok=True)
    result = {"limit": str(timing.limit(dtype)), "records": records}
    (arguments.out / "times.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(records, arguments.out / "times.png")
    console.print(table(records))
    console.print(f"{arguments.out / 'times.json'}, {arguments.out / 'times.png'}")


if __name__ == "__main__":
    main()
