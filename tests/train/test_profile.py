"""A trace that viewers open: a few settled steps, and nothing of compiling."""

from __future__ import annotations

import gzip
import json

from emojax.train import profile
from emojax.train.profile import SETTLED, TRACED, Profiler
from tests.train.runs import cli, settings


def test_train_writes_a_trace_of_settled_steps(corpus, tmp_path):
    folder = tmp_path / "run"
    done = cli("train", "--out", folder, *settings(corpus), "--profile")
    assert (done.returncode, done.stderr) == (0, "")
    (written,) = (folder / "profile").glob("plugins/profile/*/*.trace.json.gz")
    assert list(written.parent.glob("*.xplane.pb"))
    events = json.loads(gzip.decompress(written.read_bytes()))["traceEvents"]
    steps = [
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    ]
    assert len(steps) == TRACED
    assert sorted(steps) == list(range(min(steps), min(steps) + TRACED))
    assert min(steps) >= SETTLED
    assert sum("train_step" in event.get("name", "") for event in events) >= TRACED
    assert not any("backend_compile" in event.get("name", "") for event in events)


def traced(shapes, monkeypatch, tmp_path):
    """Steps at which a trace begins and ends."""
    seen = {}
    now = 0
    monkeypatch.setattr(profile.jax.profiler, "start_trace", lambda _: seen.update(begin=now))
    monkeypatch.setattr(profile.jax.profiler, "stop_trace", lambda: seen.update(end=now))
    profiler = Profiler(tmp_path / "trace")
    for now, shape in enumerate(shapes):
        with profiler.step(now, shape):
            pass
        profiler.rest(())
    profiler.close()
    return seen


def test_a_new_shape_puts_the_trace_off(monkeypatch, tmp_path):
    shapes = [8, 8, 8, 16, *[8] * 20]
    assert traced(shapes, monkeypatch, tmp_path) == {
        "begin": 4 + SETTLED, "end": 4 + SETTLED + TRACED - 1
    }  # fmt: skip


def test_a_training_that_ends_early_leaves_what_it_traced(monkeypatch, tmp_path):
    seen = traced([8] * (SETTLED + 3), monkeypatch, tmp_path)
    assert seen == {"begin": SETTLED + 1, "end": SETTLED + 2}
