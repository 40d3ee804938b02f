"""`python -m tests.dist.eight OUT.json`: training on eight simulated devices, arranged in many ways.

Everything is written to one file, because starting and compiling take longer than the tests that
read it: for each arrangement the losses of 20 steps, where every array of the state lies, and what
the compiled step says between devices.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax.config import MODELS, MeshConfig, ModelConfig, RedifuAuthorsConfig, RedifuConfig, TrainConfig
from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate
from emojax.dist.collectives import collectives, summary
from emojax.dist.mesh import build_mesh, put_batch
from emojax.evaluate.predict import make_predict
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.step import make_initial_state, make_train_step, state_shardings
from emojax.types import Batch
from tests.batches import SIGNATURE, random_conversation

STEPS = 20
_STARTS: dict[Any, Any] = {}
REDIFU = RedifuConfig(
    width=32, heads=8, graph_heads=8, encoder_layers=1, graph_layers=1, window=2,
    diffusion_steps=2, dropout=0.2, attention_dropout=0.1, input_dropout=0.1, feature_mix=0.3,
    speaker_embedding=True,
)  # fmt: skip
V2 = dataclasses.replace(REDIFU, attention="v2", causal=True, cross_modal="utterance")
GRAPH = MODELS["dialogue_gcn"](width=32, window=2)
SPACE = MODELS["shared_space"](width=32, contrast="supervised")
AUTHORS = RedifuAuthorsConfig(width=16, heads=4, window=3, dropout=0.3)
TRAIN = TrainConfig(
    learning_rate=0.003, ema_decay=0.9, weight_decay=0.1, auxiliary_weight=0.3, auxiliary_power=2
)
ACCUMULATE = dataclasses.replace(TRAIN, accumulate=2, remat="layers")


@dataclasses.dataclass(frozen=True)
class Case:
    """An arrangement, and what is trained in it; one device trains the same."""

    mesh: MeshConfig
    model: ModelConfig = REDIFU
    train: TrainConfig = TRAIN


CASES = {
    "data": Case(MeshConfig(data=8)),
    "fsdp": Case(MeshConfig(fsdp=8)),
    "sequence": Case(MeshConfig(sequence=8)),
    "model": Case(MeshConfig(model=8)),
    "data fsdp model, accumulated": Case(MeshConfig(fsdp=2, model=2), REDIFU, ACCUMULATE),
    "data sequence model, v2": Case(MeshConfig(sequence=2, model=2), V2),
    "fsdp sequence model": Case(MeshConfig(fsdp=2, sequence=2, model=2)),
    "data fsdp, redifu_authors": Case(MeshConfig(fsdp=4), AUTHORS),
    "data fsdp, dialogue_gcn": Case(MeshConfig(fsdp=4), GRAPH),
    "data fsdp, shared_space": Case(MeshConfig(fsdp=2), SPACE),
}


def batch(seed: int, model: ModelConfig) -> Batch:
    """16 rows of up to 16 utterances: packed, or one conversation each."""
    sizes = [5, 4, 9, 3, 16, 8, 7, 2, 11, 12, 3, 1, 16, 6]
    conversations = [random_conversation(100 * seed + i, n) for i, n in enumerate(sizes)]
    rows: tuple[tuple[int, ...], ...] = (
        (0, 1, 3), (2, 6), (4,), (5, 7), (8, 10, 11), (9,), (12,), (13,)
    )  # fmt: skip
    if isinstance(model, RedifuAuthorsConfig):
        plan = BatchPlan(16, (*((i,) for i in range(14)), (), ()), 160, 16)
    else:
        plan = BatchPlan(16, (*rows, *((),) * 8))
    return collate(plan, conversations, SIGNATURE.widths)


def trained(case: Case, *, alone: bool = False) -> dict[str, Any]:
    """What the case leaves; `alone` on one device."""
    mesh = None if alone else build_mesh(case.mesh)
    model = build(case.model, SIGNATURE, case.train.remat)
    schedule = build_schedule(case.train, [STEPS])
    optimiser = build_optimiser(case.train, schedule)

    def put(seed: int) -> Batch:
        return put_batch(batch(seed, case.model), range(16), 16, mesh)

    given = jax.random.key(0), batch(0, case.model), identity_statistics(SIGNATURE.widths)
    if case is CASES["fsdp"] and not alone:
        state = make_initial_state(model, optimiser, case.train, mesh)(*given)
    else:  # made once on one device, then moved: compiling takes longer
        if (case.model, case.train) not in _STARTS:
            start = make_initial_state(model, optimiser, case.train)
            _STARTS[case.model, case.train] = jax.device_get(start(*given))
        places = state_shardings(model, optimiser, case.train, mesh) if mesh else None
        state = jax.device_put(_STARTS[case.model, case.train], places)
    function = make_train_step(model, optimiser, case.train, schedule, None, mesh)
    step = function.lower(state, put(0)).compile()
    metrics = []
    for seed in range(STEPS):
        state, values = step(state, put(seed))
        metrics.append({name: float(value) for name, value in values.items()})
    found: dict[str, Any] = {"metrics": metrics}
    if case.model == V2:
        said = make_predict(model, mesh=mesh)(state.variables(), put(STEPS))
        found["predicted"] = [
            np.asarray(x).tolist() for x in (said.log_probability, said.contribution, said.words)
        ]
    if mesh is not None:
        found["collectives"] = summary(collectives(step.as_text(), mesh))
        found["places"] = {
            jax.tree_util.keystr(path, simple=True, separator="/"): [
                x.shape, x.addressable_shards[0].data.shape, [str(part) for part in x.sharding.spec]
            ]
            for path, x in jax.tree_util.tree_leaves_with_path(state)
        }  # fmt: skip
    return found


def main(out: Path) -> None:
    alone: dict[Any, Any] = {}
    found = {}
    for name, case in CASES.items():
        settings = case.model, case.train
        if settings not in alone:
            alone[settings] = trained(case, alone=True)
        found[name] = {"alone": alone[settings], "divided": trained(case)}
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
