"""DTW and soft-DTW beside public implementations, in one run on the CPU.

    pip install tslearn dtaidistance
    python -m experiments.bench.dtw --out runs/bench/dtw

Random sequences in fp32, batches of them; contenders take turns, the fastest of several rounds
counts, and ratios to the public implementation are what the table is for. dtaidistance (C, fp64, in
a loop over pairs) is the rival for DTW in a band, tslearn (numba, fp64, whole matrix) for soft-DTW
and, with the matrix its backward recursion gives, for its gradient. Distances and gradients are
compared before times are taken.

Cost: 2 minutes on an idle core, most of it tslearn's. Expected: `experiments/results/dtw.md`, from
a busy machine.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.files import write_atomically
from emojax.ops.warping import dtw, soft_dtw
from experiments import command
from experiments.bench import timing
from experiments.sheet import Sheet

SHAPES = ((64, 250, 1, 25), (256, 100, 8, 10), (512, 50, 1, None), (64, 250, 1, None))
"""Pairs, frames, features, band (None is the whole matrix)."""
GAMMA = 1.0


def contenders(shape: tuple[int, int, int, int | None], ours: Any) -> dict[str, Callable[[], Any]]:
    """Programs of no arguments that return distances, or for `gradient` those by x.

    Args:
      ours: x and y, f32[B, L, D].
    """
    from dtaidistance import dtw_ndim
    from tslearn.metrics import SoftDTW, SquaredEuclidean
    from tslearn.metrics import soft_dtw as their_soft_dtw

    band = shape[-1]
    x, y = ours
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(x, y, strict=True)]
    window = None if band is None else band + 1
    # Whole matrices alone: tslearn's soft-DTW has no band.
    found: dict[str, Callable[[], Any]] = {
        "emojax dtw": functools.partial(jax.jit(functools.partial(dtw, band=band)), x, y),
        "dtaidistance dtw": lambda: np.square(
            [dtw_ndim.distance_fast(a, b, window=window) for a, b in pairs]
        ),
    }
    soft = functools.partial(soft_dtw, gamma=GAMMA, band=band)
    total = jax.jit(jax.grad(lambda x, y: soft(x, y).sum()))
    found["emojax soft-DTW"] = functools.partial(jax.jit(soft), x, y)
    found["emojax soft-DTW gradient"] = functools.partial(total, x, y)
    if band is None:

        def gradient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            distance = SquaredEuclidean(a, b)
            walk = SoftDTW(distance, gamma=GAMMA)
            walk.compute()
            return distance.jacobian_product(walk.grad())

        found["tslearn soft-DTW"] = lambda: np.array(
            [their_soft_dtw(a, b, gamma=GAMMA) for a, b in pairs]
        )
        found["tslearn soft-DTW gradient"] = lambda: np.array([gradient(a, b) for a, b in pairs])
    return found


def rows(shape: tuple[int, int, int, int | None], rounds: int) -> list[list[str]]:
    """A row of texts for each thing computed."""
    pairs, length, features, band = shape
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, pairs, length, features)).astype(np.float32)
    programs = contenders(shape, (x, y))
    _agree(programs)
    each = timing.in_turn(programs, rounds=rounds)
    # Whatever else the machine does only ever adds to a time.
    seconds = {name: min(took) for name, took in each.items()}
    where = f"{pairs} x {length} x {features}", "all" if band is None else str(band)
    found = []
    for name, took in seconds.items():
        if not name.startswith("emojax"):
            continue
        what = name.removeprefix("emojax ")
        rival = next((n for n in seconds if n != name and n.endswith(f" {what}")), None)
        theirs = ("", "", "") if rival is None else (
            rival.split()[0], f"{1e3 * seconds[rival]:.1f}", f"{seconds[rival] / took:.2f}"
        )  # fmt: skip
        found.append([*where, what, f"{1e3 * took:.1f}", *theirs])
    return found


def _agree(programs: dict[str, Callable[[], Any]]) -> None:
    for name, program in programs.items():
        rival = programs.get(name.replace("emojax", "tslearn"))
        rival = rival or programs.get(name.replace("emojax", "dtaidistance"))
        if rival is not None and name.startswith("emojax"):
            np.testing.assert_allclose(program(), rival(), rtol=2e-4, atol=2e-4, err_msg=name)


def _run(options: argparse.Namespace) -> None:
    table = [row for shape in SHAPES for row in rows(shape, options.rounds)]
    header = [
        "pairs x frames x features", "band", "what", "emojax, ms", "rival", "its ms",
        "times as fast",
    ]  # fmt: skip
    note = f"Fastest of {options.rounds} rounds in turn, whole batches, on {jax.devices()[0]}."
    sheet = Sheet("DTW beside public implementations", header, table, note)
    print(sheet.markdown())
    write_atomically(options.out / "dtw.md", sheet.markdown())


def main() -> int:
    parser = command.parser("experiments.bench.dtw", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    return command.status(lambda: _run(options))


if __name__ == "__main__":
    sys.exit(main())
