"""EmoDB, leave one speaker out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import experiments.emodb as about
from emojax.errors import DataError
from emojax.files import write_atomically
from experiments import command

RIVALS_FILE = "rivals.jsonl"
SEGMENT = 100
"""Steps between looks at the clock."""


def main() -> int:
    began = time.monotonic()
    parser = command.parser("experiments.emodb", about.__doc__)
    parser.add_argument(
        "do", choices=("train", "rivals", "table"),
        help="the lanes of the study; openSMILE with support vectors; what both found",
    )  # fmt: skip
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/emodb"), metavar="FOLDER",
        help="the wav files, or one file made of them (default ../shared/data/emodb)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/emodb"), metavar="DIR")
    parser.add_argument("--seeds", type=int, default=5, help="of each test speaker (default 5)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument(
        "--steps", type=int, default=1500,
        help="of each training, in hundreds; fewer if the budget asks for it (default 1500)",
    )  # fmt: skip
    parser.add_argument("--batch", type=int, default=16, help="utterances of a step")
    parser.add_argument(
        "--candidates", type=int, default=100, metavar="N", help="settings to choose among, at most"
    )
    parser.add_argument(
        "--width", type=int, metavar="N",
        help="lanes of a chunk, computed side by side (default 135); on CPU, where they come one "
        "after the other, how many a kill may lose (default 2)",
    )  # fmt: skip
    parser.add_argument(
        "--budget", type=float, default=float("inf"), metavar="SECONDS",
        help="end the search so early that the last trainings are done in time",
    )  # fmt: skip
    options = parser.parse_args()
    if min(options.seeds, options.batch, options.steps) < 1 or options.candidates < 0:
        parser.error("--seeds, --batch and --steps are at least 1, --candidates at least 0")
    if options.steps > SEGMENT and options.steps % SEGMENT:
        parser.error(f"--steps above {SEGMENT} go up in steps of {SEGMENT}")
    work = {"train": train, "rivals": rivals, "table": table}[options.do]
    return command.status(lambda: work(options, began))


def train(o: argparse.Namespace, began: float) -> None:
    import jax

    from experiments.emodb import corpus, search
    from experiments.emodb.train import Study, printer, run

    say = printer(o.out, began)
    device = jax.devices()[0]
    # Small products of many lanes fill an accelerator; a core is full of one.
    on_cpu = device.platform == "cpu"
    width = o.width or (2 if on_cpu else 135)
    say(f"jax {jax.__version__} on {device.device_kind}")
    study = Study(
        corpus.read(o.data), o.out, steps=o.steps, batch=o.batch, width=width,
        at_once=1 if on_cpu else width, segment=min(SEGMENT, o.steps),
        deadline=began + o.budget, say=say,
    )  # fmt: skip
    say(f"{len(study.sounds.count)} utterances heard")
    names = list(search.CANDIDATES)[: o.candidates]
    seeds = range(o.first_seed, o.first_seed + o.seeds)
    run(study, seeds=seeds, candidates=names)


def rivals(o: argparse.Namespace, began: float) -> None:
    from experiments.emodb import corpus
    from experiments.emodb.rivals import RIVALS, decided, functionals

    read = corpus.read(o.data)
    lines = []
    for name, (features, kernel) in RIVALS.items():
        lines += decided(read, name, functionals(read, features, o.out), kernel)
    content = "".join(json.dumps(line) + "\n" for line in lines)
    print(write_atomically(o.out / RIVALS_FILE, content))


def table(o: argparse.Namespace, began: float) -> None:
    from experiments.emodb.table import sheets
    from experiments.emodb.train import RESULTS, lines_of

    found, theirs = lines_of(o.out / RESULTS), lines_of(o.out / RIVALS_FILE)
    if not found and not theirs:
        raise DataError("no results are there", file=o.out, fix="Run `train` or `rivals` first")
    content = "\n".join(sheet.markdown(2) for sheet in sheets(found, theirs))
    write_atomically(o.out / "table.md", content)
    print(content)


if __name__ == "__main__":
    sys.exit(main())
