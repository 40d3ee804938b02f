"""What the benchmark times: each contender is a function that trains one epoch.

A contender is built once, in a process of its own; calling it goes through the epoch in the fixed
order, dropout on, Adam with the published L2, and returns when every update has been done.
Heavy imports stand in the functions: no process loads a framework that it does not time.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from emojax.data.pipeline import Batches
from experiments.bench import workload

LEARNING_RATE, L2 = 1e-4, 5e-5
WIDTH, HEADS = 512, 64
PRODUCT = (1760, 2048, 2048)
"""The model's largest matrix product: 16 x 110 places through an MLP layer of width 4D."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """An epoch of training and how much arithmetic it needs.

    Attributes:
      epoch: trains one epoch; returns its last loss.
      flops: FLOPs of the matrix products of an epoch, on the places this contender computes.
      parameters: how many numbers are trained.
      detail: what else is worth telling.
    """

    epoch: Callable[[], float]
    flops: int
    parameters: int
    detail: str


def authors_flops(late_places: Callable[[Any], int]) -> int:
    """`flops.authors` of the padded epoch, `late_places` of each batch after fusion's attention."""
    from experiments.bench import flops

    return sum(
        flops.authors(
            workload.SIGNATURE, WIDTH, batch.label.size, late_places(batch),
            batch.label.size * batch.label.shape[1],
        )
        for batch in map(workload.published, workload.epoch(workload.padded()))
    )  # fmt: skip


def real_flops() -> int:
    """`flops.authors` if no padding were computed anywhere."""
    from experiments.bench import flops

    lengths = workload.lengths()
    places = int(lengths.sum())
    return flops.authors(workload.SIGNATURE, WIDTH, places, places, int((lengths**2).sum()))


def torch_authors(compiled: bool = False) -> Contender:
    """The PyTorch rival on the padded batches, eager or through torch.compile."""
    import torch

    from emojax.interop import torch_redifu as rival

    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = rival.RedifuAuthorsConfig(width=WIDTH, heads=HEADS)
    model = rival.RedifuAuthors(config, workload.SIGNATURE)
    forward = torch.compile(model, dynamic=False) if compiled else model
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=L2, fused=True)
    batches = workload.padded()

    def epoch() -> float:
        for packed in batches.one_epoch():
            batch = workload.published(packed.batch)
            names = ("text", "audio", "visual", "present", "speaker", "segment")
            given = {name: torch.from_numpy(getattr(batch, name)) for name in names}
            logits, each = forward(**given)
            loss = rival.published_loss(logits, each, torch.from_numpy(batch.label).long())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return loss.item()

    return Contender(
        epoch,
        authors_flops(lambda batch: batch.label.size),
        sum(x.numel() for x in model.parameters()),
        f"torch {torch.__version__} {'compiled' if compiled else 'eager'}, padded",
    )


def emojax_authors() -> Contender:
    """`redifu_authors` on the same padded batches."""
    from emojax.config import RedifuAuthorsConfig

    config = RedifuAuthorsConfig(width=WIDTH, heads=HEADS)
    epoch, parameters = _emojax_training(config, workload.padded())
    needed = authors_flops(lambda batch: int((batch.segment > 0).sum()))
    return Contender(epoch, needed, parameters, "padded; after fusion's attention only real places")


def emojax_redifu() -> Contender:
    """`redifu` on packed batches; window and dropout as published, the rest its defaults."""
    from emojax.config import RedifuConfig

    config = RedifuConfig(width=WIDTH, heads=HEADS, window=20, dropout=0.5)
    batches = workload.packed()
    epoch, parameters = _emojax_training(config, batches)
    needed = _traced_flops(config, batches)
    plans = batches.plan(0)
    places = sum(plan.length * len(plan.rows) for plan in plans)
    detail = f"packed into {places} places, {len(plans)} updates"
    return Contender(epoch, needed, parameters, detail)


def _traced_flops(model_config: Any, batches: Batches) -> int:
    """FLOPs of an epoch's matrix products, counted from the traced model."""
    import jax

    from emojax.models.registry import build
    from experiments.bench import flops

    model = build(model_config, workload.SIGNATURE)
    epoch = workload.epoch(batches)
    variables = jax.eval_shape(model.init, jax.random.key(0), epoch[0])
    return sum(
        flops.trained(model.apply, workload.SIGNATURE, WIDTH, variables, batch) for batch in epoch
    )


def _emojax_training(model_config: Any, batches: Batches) -> tuple[Callable[[], float], int]:
    """An epoch with emojax's own train step, and the number of parameters."""
    import jax

    from emojax.config import TrainConfig
    from emojax.dist.compiler import return_memory_after_compiling
    from emojax.models.registry import build
    from emojax.nn.layers import identity_statistics
    from emojax.train.loop import IN_FLIGHT
    from emojax.train.optimiser import build_optimiser, build_schedule
    from emojax.train.step import make_initial_state, make_train_step

    return_memory_after_compiling()
    config = TrainConfig(
        optimiser="adam_l2", learning_rate=LEARNING_RATE, weight_decay=L2, warmup=0.0,
        clip_norm=None, auxiliary_weight=0.1, auxiliary_power=2, ema_decay=0.0,
        schedule_per_epoch=True, epochs=50,
    )  # fmt: skip
    model = build(model_config, workload.SIGNATURE)
    schedule = build_schedule(config, [len(batches.plan(0))] * config.epochs)
    optimiser = build_optimiser(config, schedule)
    step = make_train_step(model, optimiser, config, schedule, None)
    statistics = identity_statistics(workload.SIGNATURE.widths)
    initial_state = make_initial_state(model, optimiser, config)
    first = next(iter(batches.one_epoch())).batch
    state = initial_state(jax.random.key(config.seed), first, statistics)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def epoch() -> float:
        nonlocal state
        waiting: list[Any] = []
        for packed in batches.one_epoch():
            state, metrics = step(state, packed.batch)
            waiting.append(metrics["loss"])
            # As the training loop does: without a limit, memory of many steps is held at once.
            if len(waiting) > IN_FLIGHT:
                waiting.pop(0).block_until_ready()
        jax.block_until_ready(state)
        return float(waiting[-1])

    return epoch, parameters


def matrix_product_rates() -> dict[str, float]:
    """FLOP/s of one fp32 product of the model's size, in jax and in torch: best of five tries."""
    import jax
    import jax.numpy as jnp
    import torch

    rows, inner, columns = PRODUCT
    rng = np.random.default_rng(0)
    left = rng.standard_normal((rows, inner), np.float32)
    right = rng.standard_normal((inner, columns), np.float32)
    torch.set_num_threads(2)
    tensors = torch.from_numpy(left), torch.from_numpy(right)
    arrays = jnp.asarray(left), jnp.asarray(right)
    multiply = jax.jit(jnp.matmul)
    ways: dict[str, Callable[[], Any]] = {
        "jax": lambda: multiply(*arrays).block_until_ready(),
        "torch": lambda: torch.mm(*tensors),
    }
    rates = {}
    for name, product in ways.items():
        product()
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(10):
                product()
            seconds.append((time.perf_counter() - began) / 10)
        rates[name] = 2 * rows * inner * columns / min(seconds)
    return rates


BUILDERS: dict[str, Callable[[], Contender]] = {
    "torch": torch_authors,
    "torch_compiled": lambda: torch_authors(compiled=True),
    "redifu_authors": emojax_authors,
    "redifu": emojax_redifu,
}
