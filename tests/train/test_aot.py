"""Shapes, places and memory of the train step, before anything is compiled."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from emojax.config import Config, DataConfig, MeshConfig, RedifuAuthorsConfig, RedifuConfig
from emojax.dist.aot import DoesNotFit, Program
from emojax.dist.mesh import AXES
from emojax.dist.slices import Slice, parse_slice
from emojax.train.aot import Corpus, Step, aot, shapes, stand_in

PADDED = DataConfig(layout="padded", buckets=(), batch_conversations=6)


def mesh(**sizes: int) -> AbstractMesh:
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    return AbstractMesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def test_shapes_without_a_corpus_are_those_that_every_bucket_makes():
    config = Config(data=DataConfig(buckets=(40, 80, 120), batch_utterances=512))
    plans = shapes(config, stand_in(config.data, (6, 5, 4), 6, 2), 1)
    assert [(len(plan.rows), plan.length) for plan in plans] == [(4, 120), (6, 80), (12, 40)]
    plans = shapes(config, stand_in(config.data, (6, 5, 4), 6, 2), 8)
    assert [(len(plan.rows), plan.length) for plan in plans] == [(8, 120), (8, 80), (16, 40)]


def test_shapes_of_padded_rows():
    config = Config(data=PADDED, model=RedifuAuthorsConfig(width=16, heads=4))
    (plan,) = shapes(config, stand_in(config.data, (6, 5, 4), 6, 2), 4)
    assert (len(plan.rows), plan.length, plan.extent) == (8, 112, 110)


def test_shapes_of_a_corpus_are_those_of_its_epoch():
    config = Config(data=DataConfig(buckets=(8, 16), batch_utterances=32))
    signature = stand_in(config.data, (6, 5, 4), 6, 2).signature
    lengths = np.array([3, 12, 70, 5, 16], np.int32)
    plans = shapes(config, Corpus(signature, lengths), 1)
    assert [(len(plan.rows), plan.length) for plan in plans] == [(1, 128), (2, 16), (4, 8)]


def test_what_a_device_holds_is_its_share():
    config = Config(model=RedifuConfig(width=64, graph_layers=0, text_guidance=False))
    step = Step(config, stand_in(config.data, (64, 64, 64), 6, 2))
    plan = shapes(config, step.corpus, 4)[0]
    alone, divided = (step.needed(plan, mesh(fsdp=n)) for n in (1, 4))
    size = alone["parameters"]
    assert alone["gradients"] == alone["moving average"] == size
    assert 2 * size < alone["optimiser"] < 2 * size + 64
    rows, length = len(plan.rows), plan.length
    assert alone.pop("batch") == rows * length * (3 * 64 * 4 + 3 + 4 * 4)
    assert divided.pop("batch") == rows // 4 * length * (3 * 64 * 4 + 3 + 4 * 4)
    for name, whole in alone.items():
        # Vectors and classes stay whole.
        assert whole / 4 < divided[name] < 0.32 * whole

    places = mesh(data=2, fsdp=2, model=2)
    params = step.state(places).params
    query = params["audio_encoder_0"]["attention"]["query"]["kernel"]
    assert query.sharding.shard_shape(query.shape) == (64 // 2, 64 // 2)
    label = step.batch(plan, places).label
    assert label.sharding.shard_shape(label.shape) == (rows // 4, length)


def test_what_cannot_fit_is_refused_before_compiling(monkeypatch):
    def devices(self: Slice) -> None:
        pytest.fail("the compiler was asked")

    monkeypatch.setattr(Slice, "devices", devices)
    large = RedifuConfig(width=16384, graph_layers=0, text_guidance=False)
    config = Config(model=large, mesh=MeshConfig(fsdp=2))
    corpus = stand_in(config.data, (6, 5, 4), 6, 2)
    with pytest.raises(DoesNotFit, match=r"v5e:2x2 has 16\.00 GiB.*gradients.*mesh\.fsdp"):
        aot(config, parse_slice("v5e:2x2"), corpus)


def test_a_compiled_step_that_is_larger_than_a_device(monkeypatch):
    """Should XLA promise more than there is, it is not believed."""
    config = Config(model=RedifuConfig(encoder_layers=0, graph_layers=0, text_guidance=False))
    memory = {"arguments": 15 << 30, "results": 0, "temporaries": 2 << 30, "program": 0}
    program = Program(memory, 0.0, 0, 0.0, {}, 0, [], 0.0)
    monkeypatch.setattr(Slice, "devices", lambda self: jax.devices())
    monkeypatch.setattr(Step, "compiled", lambda *_: program)
    with pytest.raises(DoesNotFit, match=r"takes 17\.00 GiB of each device of v5e:1x1"):
        aot(config, parse_slice("v5e:1x1"), stand_in(config.data, (6, 5, 4), 6, 2))
