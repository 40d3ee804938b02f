"""End to end on the media simulator."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import experiments.end_to_end as about
from emojax.errors import DataError
from emojax.files import write_atomically
from experiments import command

RESULTS = "results.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = command.parser("experiments.end_to_end", about.__doc__)
    parser.add_argument(
        "do", choices=("train", "table"),
        help="the seeds that are not there yet, then the table; the table alone",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=10, help="of each variant (default 10)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds is at least 1")
    return command.status(lambda: {"train": train, "table": table}[options.do](options))


def train(o: argparse.Namespace) -> None:
    """All variants of a seed before the next seed, so that what is there can be compared."""
    from experiments.end_to_end import corpus
    from experiments.end_to_end import train as study
    from experiments.programs import start
    from experiments.store import Store

    start(o.out)
    recordings = study.RECORDINGS
    found = corpus.measured(recordings, o.out)
    raw, shapes = corpus.raw(recordings, found)
    pooled = corpus.pooled(recordings, found)
    store, trainers = Store(o.out / RESULTS), {}
    for seed, (name, variant) in itertools.product(range(o.seeds), study.VARIANTS.items()):
        identity = study.identity(variant, seed)
        if store.find(identity, name):
            continue
        if name not in trainers:
            splits = raw if variant.trained else pooled
            trainers[name] = study.Trainer(
                study.config_of(variant, seed), splits, corpus.signature(recordings, splits),
                shapes if variant.trained else None, study.SIZES,
            )  # fmt: skip
        result = trainers[name].result(name, seed, identity, study.fingerprint(raw))
        store.append(result)
        f1 = ", ".join(f"{s} {100 * x['weighted_f1']:.1f}" for s, x in result.scores.items())
        now = time.strftime("%X")
        print(f"{now} {name}, seed {seed}: {f1} ({result.seconds:.0f} s)", flush=True)
    table(o)


def table(o: argparse.Namespace) -> None:
    from emojax.evaluate.plots import render
    from experiments.end_to_end import table as made
    from experiments.end_to_end import train as study
    from experiments.store import Store

    results = [
        each for each in Store(o.out / RESULTS).newest
        if each.variant in study.VARIANTS
        and each.config == study.identity(study.VARIANTS[each.variant], each.seed)
    ]  # fmt: skip
    if not results:
        raise DataError("no results are there", file=o.out, fix="Run `train` first")
    rows, known = made.rows_of(results), made.limits(study.RECORDINGS)
    content = made.sheet(rows, known).markdown()
    write_atomically(o.out / "table.md", content)
    (o.out / "weighted_f1.png").write_bytes(render(made.figure(rows, known)))
    print(content)


if __name__ == "__main__":
    sys.exit(main())
