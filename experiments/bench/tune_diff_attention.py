"""Measure which block sizes of differential attention are fastest here, and write them down.

Forward and backward at each length of the benchmark's shapes, with every block size that the
implementation of this device takes and that compiles; the fastest become the entry of this device
kind in `emojax/ops/diff_attention/blocks.json`, which the operator reads. `--dry-run` only prints.

Cost: 3 minutes on two idle cores (where "xla" is tuned), 5 on a GPU or TPU.

    python -m experiments.bench.tune_diff_attention --dry-run
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from rich.console import Console
from rich.progress import track

from emojax.dist.compiler import compiler_options
from emojax.ops.diff_attention import blocks, differential_attention
from emojax.ops.diff_attention.shapes import SPECIFIED, Shape
from emojax.ops.target import target
from experiments import command
from experiments.bench import timing

IMPLEMENTATION = {"cpu": "xla", "tpu": "pallas_tpu", "gpu": "pallas_gpu"}


def candidates(platform: str, length: int) -> Iterator[dict[str, int]]:
    """Block sizes worth a try for rows of `length`."""
    if platform == "cpu":
        for power in range(16, 22):
            yield {"map_elements": 1 << power}
        return
    sizes = (128, 256, 512) if platform == "tpu" else (32, 64, 128)
    for query in (size for size in sizes if size <= max(length, sizes[0])):
        yield {"query": query, "key": sizes[-1], "whole_row": length}
        for key in (size for size in sizes if size < length):
            yield {"query": query, "key": key, "whole_row": 0}


def program(shape: Shape, dtype: Any) -> Any:
    """A compiled forward and backward pass, without arguments."""
    keys = jax.random.split(jax.random.key(0), 5)
    size = (shape.rows, shape.length, shape.heads)
    widths = (*[shape.width] * 4, shape.values)
    x = [
        jax.random.normal(key, (*size, width), dtype)
        for key, width in zip(keys, widths, strict=True)
    ]

    def scalar(q: Array, k: Array, q2: Array, k2: Array, v: Array) -> Array:
        segment = jnp.ones(q.shape[:2], jnp.int32)
        y = differential_attention(q, k, v, jnp.float32(0.5), q2=q2, k2=k2, segment=segment)
        return jnp.square(y.astype(jnp.float32)).sum()

    gradient = jax.grad(scalar, argnums=tuple(range(5)))
    compiled = jax.jit(gradient, compiler_options=compiler_options()).lower(*x).compile()
    return lambda: compiled(*x)


def fastest(shape: Shape, dtype: Any, rounds: int, console: Console) -> dict[str, int]:
    """The block sizes whose median is least; the table is what it was afterwards."""
    platform, _ = target()
    name, programs, chosen = IMPLEMENTATION[platform], {}, {}
    for entry in track(list(candidates(platform, shape.length)), str(shape), console=console):
        label = ", ".join(f"{key} {value}" for key, value in entry.items())
        with blocks.instead({name: {"default": [entry]}}):
            # The operator reads the table while it is traced.
            jax.clear_caches()
            try:
                programs[label] = program(shape, dtype)
                jax.block_until_ready(programs[label]())
                chosen[label] = entry
            except jax.errors.JaxRuntimeError as error:
                programs.pop(label, None)
                console.print(f"{label}: {str(error).splitlines()[0][:100]}")
    seconds = timing.median(timing.in_turn(programs, rounds=rounds))
    for label in sorted(seconds, key=seconds.__getitem__):
        console.print(f"  {1e3 * seconds[label]:9.2f} ms  {label}")
    return chosen[min(seconds, key=seconds.__getitem__)]


def entries(found: dict[int, dict[str, int]]) -> list[dict[str, int]]:
    """The table's form: by length, the longest without one; neighbours that agree are merged."""
    rows = [{"length": length, **entry} for length, entry in sorted(found.items())]
    merged = [
        row for row, after in itertools.pairwise([*rows, {}])
        if {**row, "length": 0} != {**after, "length": 0}
    ]  # fmt: skip
    return [*merged[:-1], {k: v for k, v in merged[-1].items() if k != "length"}]


def main() -> None:
    parser = command.parser("experiments.bench.tune_diff_attention", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times each program is measured")
    parser.add_argument("--columns", type=int, nargs="*", help="only shapes of these lengths")
    parser.add_argument("--dry-run", action="store_true", help="print the entry, write nothing")
    arguments = parser.parse_args()
    shapes = [s for s in SPECIFIED if not arguments.columns or s.length in arguments.columns]
    if not shapes:
        parser.error(f"--columns: there are {', '.join(str(s.length) for s in SPECIFIED)}")
    console, (platform, kind) = Console(), target()
    dtype = "float32" if platform == "cpu" else "bfloat16"
    found = {s.length: fastest(s, dtype, arguments.rounds, console) for s in shapes}
    console.print(f"{kind}: {json.dumps(entries(found))}")
    if not arguments.dry_run:
        blocks.write(IMPLEMENTATION[platform], kind, entries(found))
        console.print(f"written to {blocks.TABLE}")


if __name__ == "__main__":
    main()
