"""Seconds of a training step of many seeds as one program, over those of one run by itself.

    python -m experiments.bench.sweep
    python -m experiments.bench.sweep --size authors --lanes 4 --rounds 2

`small` is the default model on the embedded corpus, `authors` the same at the published width and
heads (512, 64). Contenders take the same batches in turn, in one process:

  one     a run by itself: `make_train_step`, on one device that may use every core
  lanes   `--lanes` runs with as many seeds: `train.lanes.Lanes`, over all devices, a core each on
          CPU, with as many at once as `--at-once` says (default: the program's own choice)

`times one` is the time of all lanes over that of one run: on CPU it should not exceed their number,
on an accelerator the aim is below 4 for 16 lanes of the published size. Compilation is timed apart.
Cost on two cores: 3 minutes for `small`, 10 for `authors` and 16 lanes, with 8 GB.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp

from experiments import command
from experiments.bench import timing

SIZES = {"small": {}, "authors": {"width": 512, "heads": 64, "graph_heads": 64}}
STEPS = 4
"""Steps of a measurement."""


def measure(size: str, count: int, at_once: int | None, rounds: int) -> dict[str, Any]:
    """One size on the devices of this process."""
    from emojax.config import from_dict
    from emojax.data.pipeline import Batches, StackedBatches
    from emojax.models.registry import build
    from emojax.nn.layers import statistics
    from emojax.train.lanes import Lanes
    from emojax.train.optimiser import build_optimiser, build_schedule
    from emojax.train.run import corpus_of
    from emojax.train.step import make_initial_state, make_train_step

    configs = [from_dict({"model": SIZES[size], "train": {"seed": seed}}) for seed in range(count)]
    train, data = configs[0].train, configs[0].data
    corpus = corpus_of(data)
    model = build(configs[0].model, corpus.signature)
    collection = statistics(corpus.statistics.mean, corpus.statistics.deviation)
    batches = Batches(
        corpus.split("train"), corpus.lengths("train"), corpus.signature.widths, data, seed=0
    )
    epochs = [len(batches.plan(epoch)) for epoch in range(train.epochs)]
    schedule = build_schedule(train, epochs)
    optimiser = build_optimiser(train, schedule)
    orders = StackedBatches([batches.reseeded(config.train.seed) for config in configs])
    stacked = list(itertools.islice(iter(orders), STEPS))

    one = make_train_step(model, optimiser, train, schedule, None)
    lanes = Lanes(
        configs, model, epochs, None, devices=jax.local_devices(), at_once=at_once
    )  # fmt: skip
    first = stacked[0].lanes[0].batch
    states = {
        "one": make_initial_state(model, optimiser, train)(jax.random.key(0), first, collection),
        "lanes": lanes.initial(first, collection),
    }
    extra = lanes.count - count
    if extra:
        raise ValueError(f"{count} lanes leave some of {lanes.mesh.size} devices without work")
    going = lanes.put(jnp.ones(count, bool))
    fed = {
        "one": [jax.device_put(each.lanes[0].batch) for each in stacked],
        "lanes": [lanes.put(each.batch) for each in stacked],
    }

    def steps(name: str) -> Any:
        for batch in fed[name]:
            if name == "one":
                states[name], metrics = one(states[name], batch)
            else:
                states[name], metrics = lanes.step(states[name], batch, going)
        return metrics

    compiling = {}
    for name in states:
        began = time.perf_counter()
        jax.block_until_ready(steps(name))
        compiling[name] = time.perf_counter() - began
    seconds = timing.median(
        timing.in_turn({name: (lambda n=name: steps(n)) for name in states}, rounds=rounds)
    )
    each = {name: value / STEPS for name, value in seconds.items()}
    return {
        "size": size, "lanes": count, "devices": [d.device_kind for d in lanes.mesh.devices.flat],
        "rows": list(stacked[0].lanes[0].batch.segment.shape),
        "seconds_of_one": each["one"], "seconds_of_all": each["lanes"],
        "times_one": each["lanes"] / each["one"], "first_seconds": compiling,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }  # fmt: skip


def main() -> None:
    parser = command.parser("experiments.bench.sweep", __doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    print(json.dumps(measure(options.size, options.lanes, options.at_once, options.rounds)))


if __name__ == "__main__":
    main()
