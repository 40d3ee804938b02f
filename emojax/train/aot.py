"""The real train step, compiled for a slice of TPU that is not here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from emojax.config import Config, DataConfig, to_dict
from emojax.data.altered import altered
from emojax.data.packing import BatchPlan, plan_epoch
from emojax.data.pipeline import collate
from emojax.dist.aot import LESS, DoesNotFit, Program, compiled, readable
from emojax.dist.collectives import summary
from emojax.dist.mesh import AXES, axis_sizes, build_mesh, row_shards
from emojax.dist.rules import batch_shardings, tree_shardings
from emojax.dist.slices import Slice
from emojax.models.registry import build
from emojax.train.objective import class_weights
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.run import corpus_of
from emojax.train.step import TrainState, make_train_step, state_shapes
from emojax.types import Batch, Signature

IEMOCAP_LONGEST = 110
"""Utterances of the longest conversation of IEMOCAP."""


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """As much of a corpus as shapes depend on.

    Attributes:
      signature: widths, labels and speakers.
      lengths: i32[N] utterances of its training conversations.
    """

    signature: Signature
    lengths: np.ndarray


def stand_in(data: DataConfig, widths: Sequence[int], classes: int, speakers: int) -> Corpus:
    """A corpus that fills batches of every shape that the config's buckets make."""
    longest = data.buckets or (IEMOCAP_LONGEST,)
    each = 1 if data.layout == "packed" else data.batch_conversations
    text, audio, visual = widths
    signature = Signature(
        "a corpus", tuple(f"label {i}" for i in range(classes)),
        tuple(f"speaker {i}" for i in range(speakers)), (text, audio, visual),
    )  # fmt: skip
    return Corpus(signature, np.repeat(np.array(longest, np.int32), each))


def shapes_of(data: DataConfig) -> Corpus:
    """What shapes need of the corpus that the config names; for the errors see `corpus_of`."""
    corpus = altered(corpus_of(data), data)
    return Corpus(corpus.signature, corpus.lengths("train"))


def shapes(config: Config, corpus: Corpus, multiple: int) -> list[BatchPlan]:
    """A batch without conversations for every shape of an epoch, the one with most places first.

    Args:
      multiple: see `data.packing.plan_epoch`.
    """
    plans = plan_epoch(corpus.lengths, config.data, seed=config.train.seed, rows_multiple=multiple)
    known = {
        (plan.length, len(plan.rows), plan.capacity): dataclasses.replace(
            plan, rows=((),) * len(plan.rows)
        )
        for plan in plans
    }
    order = sorted(known, key=lambda s: (s[0] * s[1], s[0], s[2] or 0), reverse=True)
    return [known[shape] for shape in order]


class Step:
    """The step of a config, to be laid over a mesh."""

    def __init__(self, config: Config, corpus: Corpus):
        self.config, self.corpus = config, corpus
        self.schedule = build_schedule(config.train, [1] * config.train.epochs)
        self.optimiser = build_optimiser(config.train, self.schedule)
        self.model = build(config.model, corpus.signature, config.train.remat)
        self.shapes = state_shapes(self.model, self.optimiser, config.train)

    def state(self, mesh: Mesh | AbstractMesh) -> TrainState:
        """Arrays without content, placed as training places them."""
        return jax.tree.map(_placed, nn.unbox(self.shapes), tree_shardings(mesh, self.shapes))

    def batch(self, plan: BatchPlan, mesh: Mesh | AbstractMesh) -> Batch:
        """A batch without content, of a plan without conversations."""
        one = collate(dataclasses.replace(plan, rows=((),)), (), self.corpus.signature.widths)
        rows = len(plan.rows)
        whole = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype), one)
        return jax.tree.map(_placed, whole, batch_shardings(mesh, whole))

    def needed(self, plan: BatchPlan, mesh: Mesh | AbstractMesh) -> dict[str, int]:
        """Bytes that a device cannot do without while it steps, by what they are.

        Gradients of all parameters are there at once: their norm is asked for before they are used.
        """
        state = self.state(mesh)
        params = _bytes(state.params)
        return {
            "parameters": params,
            "gradients": params,
            "optimiser": _bytes(state.opt_state),
            "moving average": _bytes(state.average),
            "batch": _bytes(self.batch(plan, mesh)),
        }

    def compiled(self, plan: BatchPlan, mesh: Mesh) -> Program:
        """The step for batches of that shape.

        Raises:
          DoesNotFit: see `dist.aot.compiled`.
        """
        classes = len(self.corpus.signature.labels)
        weights = class_weights(self.config.train, np.ones(classes))
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            step = make_train_step(
                self.model, self.optimiser, self.config.train, self.schedule, weights, mesh
            )
            return compiled(step.trace(self.state(mesh), self.batch(plan, mesh)), mesh)


def _placed(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _bytes(tree: Any) -> int:
    """Of a device's share."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def aot(
    config: Config, where: Slice, corpus: Corpus, *, every_shape: bool = False
) -> dict[str, Any]:
    """Compile the train step for a slice and say what it costs each device, as JSON values.

    Args:
      every_shape: compile for every shape of a batch, and not for the largest alone.

    Raises:
      ConfigError: the config cannot be run there, or libtpu is missing.
      DoesNotFit: it needs more memory than there is; found before compiling where parameters,
        gradients and optimiser alone tell.
    """
    sizes = axis_sizes(config.mesh, where.device_count)
    abstract = AbstractMesh(
        tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES)
    )  # fmt: skip
    plans = shapes(config, corpus, row_shards(abstract) * config.train.accumulate)
    step = Step(config, corpus)
    needed = step.needed(plans[0], abstract)
    check_fits(needed, where)
    mesh = build_mesh(config.mesh, where.devices())
    chosen = plans if every_shape else plans[:1]
    programs = [_entry(plan, step.compiled(plan, mesh)) for plan in chosen]
    most = max(program["memory"]["total"] for program in programs)
    if most > where.device_memory:
        raise DoesNotFit(
            f"the compiled step takes {readable(most)} of each device of {where.name}, which has "
            f"{readable(where.device_memory)}. {LESS}"
        )
    return {
        "slice": where.name,
        "chips": where.chips,
        "mesh": sizes,
        "chip": dataclasses.asdict(where.chip),
        "device_memory": where.device_memory,
        "parameters": sum(math.prod(x.shape) for x in jax.tree.leaves(step.shapes.params)),
        "needed": needed,
        "programs": programs,
        "config": to_dict(config),
        "jax": jax.__version__,
    }


def check_fits(needed: dict[str, int], where: Slice) -> None:
    """Raises `DoesNotFit` if what a device must hold at least is more than it has."""
    total = sum(needed.values())
    if total <= where.device_memory:
        return
    listed = ", ".join(f"{name} {readable(size)}" for name, size in needed.items() if size)
    raise DoesNotFit(
        f"each device of {where.name} has {readable(where.device_memory)} and would have to hold "
        f"{readable(total)}: {listed}. A larger mesh.fsdp divides parameters and what "
        "follows them over more devices; train.ema_decay = 0 saves the moving average"
    )


def _entry(plan: BatchPlan, program: Program) -> dict[str, Any]:
    return {
        "rows": len(plan.rows),
        "length": plan.length,
        "memory": program.memory | {"total": program.total_memory},
        "flops": program.flops,
        "kernel_flops": program.kernel_flops,
        "bytes": program.bytes,
        "kernels": program.kernels,
        "loops": program.loops,
        "collectives": summary(program.collectives),
        "each_collective": [dataclasses.asdict(each) for each in program.collectives],
        "compile_seconds": round(program.seconds, 1),
    }
