"""Seconds of a training step of many seeds as one program, over those of one run by itself.

    python -m experiments.bench.sweep
    python -m experiments.bench.sweep --size authors --lanes 4 --rounds 2
    python -m experiments.bench.sweep --drift 1000

`small` is the default model on the embedded corpus, `authors` the same at the published width and
heads (512, 64). Contenders take the same batches in turn, in one process:

  one     a run by itself: `make_train_step`, on one device that may use every core
  lanes   `--lanes` runs with as many seeds: `train.lanes.Lanes`, over all devices, a core each on
          CPU, with as many at once as `--at-once` says (default: the program's own choice)

`times one` is the time of all lanes over that of one run: on CPU it should not exceed their number,
on an accelerator the aim is below 4 for 16 lanes of the published size. Compilation is timed apart.
Cost on two cores: 3 minutes for `small`, 10 for `authors` and 16 lanes, with 8 GB.

`--drift` measures no time but how far rounding drives a lane from its run by itself: after steps 1,
20, 100 and so on the largest difference of any parameter, and both losses. Two lanes, and two to
three minutes for 1000 steps. Expected: 6e-6 after 20 steps, below 1e-3 after 1000.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import resource
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command
from experiments.bench import timing

SIZES = {"small": {}, "authors": {"width": 512, "heads": 64, "graph_heads": 64}}
STEPS = 4
"""Steps of a measurement."""
LOOKS = (1, 20, 100, 338, 1000)
"""Steps after which drift is looked at, and the last one."""


@dataclasses.dataclass
class Contenders:
    """Lanes, and the first one's run by itself, from the same state on.

    Attributes:
      orders: the batches of all lanes, epoch after epoch.
      one, lanes: as `make_train_step` and `Lanes` have them.
      states: by contender.
    """

    orders: Any
    one: Any
    lanes: Any
    states: dict[str, Any]


def contenders(size: str, count: int, at_once: int | None, devices: list[Any]) -> Contenders:
    """Both, ready to train.

    Raises:
      ValueError: the lanes cannot be divided evenly.
    """
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
    lanes = Lanes(configs, model, epochs, None, devices=devices, at_once=at_once)
    if lanes.count > count:
        raise ValueError(f"{count} lanes leave some of {lanes.mesh.size} devices without work")
    first = next(batches.one_epoch()).batch
    return Contenders(
        StackedBatches([batches.reseeded(config.train.seed) for config in configs]),
        make_train_step(model, optimiser, train, schedule, None), lanes, {
            "one": make_initial_state(model, optimiser, train)(
                jax.random.key(0), first, collection
            ),
            "lanes": lanes.initial(first, collection),
        },
    )  # fmt: skip


def measure(size: str, count: int, at_once: int | None, rounds: int) -> dict[str, Any]:
    """One size on the devices of this process."""
    both = contenders(size, count, at_once, jax.local_devices())
    one, lanes, states = both.one, both.lanes, both.states
    stacked = list(itertools.islice(iter(both.orders), STEPS))
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


def drift(size: str, steps: int) -> Iterator[dict[str, Any]]:
    """How far a lane is from its run by itself, at `LOOKS` and at the last step."""
    from emojax.train.lanes import lane

    both = contenders(size, 2, None, jax.local_devices()[:1])
    going = both.lanes.put(jnp.ones(2, bool))
    ours, alone = both.states["lanes"], both.states["one"]
    fed = itertools.islice(iter(both.orders.prefetched()), steps)
    for number, stacked in enumerate(fed, start=1):
        ours, metrics = both.lanes.step(ours, both.lanes.put(stacked.batch), going)
        alone, expected = both.one(alone, stacked.lanes[0].batch)
        if number not in (*LOOKS, steps):
            continue
        parameters = (jax.tree.leaves(each) for each in (lane(ours, 0).params, alone.params))
        yield {
            "steps": number,
            "largest": max(
                float(np.abs(np.asarray(a) - np.asarray(b)).max())
                for a, b in zip(*parameters, strict=True)
            ),
            "loss": float(metrics["loss"][0]), "loss_alone": float(expected["loss"]),
        }  # fmt: skip


def main() -> None:
    parser = command.parser("experiments.bench.sweep", __doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--drift", type=int, metavar="STEPS", help="differences instead of times")
    options = parser.parse_args()
    if options.drift:
        for each in drift(options.size, options.drift):
            print(json.dumps(each), flush=True)
        return
    jax.config.update("jax_num_cpu_devices", os.cpu_count())
    print(json.dumps(measure(options.size, options.lanes, options.at_once, options.rounds)))


if __name__ == "__main__":
    main()
