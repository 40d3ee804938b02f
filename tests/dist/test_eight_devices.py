"""Eight devices compute what one computes, hold what the rules say, and say no more than known."""

from __future__ import annotations

import json
import math
import re

import jax
import numpy as np
import pytest

from emojax.dist.mesh import axis_sizes
from tests.conftest import CACHE
from tests.dist.eight import CASES, STEPS
from tests.dist.make_collectives import GOLDEN, golden, on_eight_devices

# Axes of the mesh along which each parameter is divided, said without the layers' own names.
PLACES = [
    (r"attention/(query|key|value)/kernel", ("fsdp", "model")),
    (r"attention/lambda/kernel", ("fsdp", "model")),
    (r"attention/lambda/bias", ("model",)),
    (r"attention/out/kernel", ("model", "fsdp")),
    (r"diffusion/(query|key|value)/kernel", ("fsdp", "model")),
    (r"diffusion/(query|key|value)/bias", ("model",)),
    (r"diffusion/out/kernel", ("model", "fsdp")),
    (r"diffusion/restart", ("model",)),
    (r"graph_\d/qkv/kernel", ("fsdp+model", "")),
    (r"graph_\d/out/kernel", ("model", "fsdp")),
    (r"graph_\d/relation_embedding", ("model", "", "", "")),
    (r"feed_forward/in/kernel", ("fsdp", "model")),
    (r"feed_forward/in/bias", ("model",)),
    (r"feed_forward/out/kernel", ("model", "fsdp")),
    (r"_input/kernel", ("", "fsdp")),
    (r"fusion/qkv", ("fsdp", "")),
    (r"kernel$", ("fsdp", "")),
]
KEPT_WHOLE = r"delta/kernel|delta_kernel"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return on_eight_devices(tmp_path_factory.mktemp("eight") / "found.json", CACHE)


@pytest.mark.parametrize("name", CASES)
def test_the_same_trajectory_as_one_device(found, name):
    alone, divided = (found[name][which]["metrics"] for which in ("alone", "divided"))
    assert len(alone) == len(divided) == STEPS
    for quantity in ("loss", "gradient_norm"):
        ours, theirs = ([step[quantity] for step in steps] for steps in (divided, alone))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert [step["halted"] for step in divided] == [-1] * STEPS
    losses = [step["loss"] for step in alone]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_the_same_predictions_as_one_device(found):
    (case,) = (each for each in found.values() if "predicted" in each["alone"])
    for ours, theirs in zip(case["divided"]["predicted"], case["alone"]["predicted"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def expected_place(path: str, rank: int) -> tuple[str, ...]:
    of_parameter = re.match(r"(params|average|opt_state/.*/(mu|nu))/(?P<name>.*)", path)
    if of_parameter and not re.search(KEPT_WHOLE, of_parameter["name"]):
        for pattern, axes in PLACES:
            if re.search(pattern, of_parameter["name"]):
                return axes
    return ("",) * rank


@pytest.mark.parametrize("name", CASES)
def test_every_array_lies_where_the_rules_say(found, name):
    """Parameters, their average, both moments: each device holds its share and nothing else."""
    mesh = CASES[name].mesh
    sizes = axis_sizes(mesh, 8)
    places = found[name]["divided"]["places"]
    for path, (shape, held, _) in places.items():
        axes = expected_place(path, len(shape))
        assert len(axes) == len(shape), path
        parts = [math.prod(sizes[a] for a in each.split("+") if a) for each in axes]
        assert held == [s // p for s, p in zip(shape, parts, strict=True)], (path, shape, held)
    kinds = ("params", "average", "mu", "nu")
    counts = [sum(f"{kind}/" in f"{path}/" for path in places) for kind in kinds]
    assert len(set(counts)) == 1
    if sizes["fsdp"] > 1:
        whole = sum(math.prod(shape) for shape, _, _ in places.values())
        held_ = sum(math.prod(held) for _, held, _ in places.values())
        assert held_ < whole / sizes["fsdp"] * 2


def test_devices_say_what_the_golden_lists_and_nothing_else(found):
    known = json.loads(GOLDEN.read_text())
    if known["jax"] != jax.__version__:
        pytest.skip(f"the golden is of jax {known['jax']}; make it anew and look at the difference")
    assert golden(found) == known


def test_data_parallelism_exchanges_gradients_and_nothing_else(found):
    """What must hold whatever the version: no activation and no moment ever travels."""
    parameters = sum(
        4 * math.prod(shape)
        for path, (shape, _, _) in found["data"]["divided"]["places"].items()
        if path.startswith("params/")
    )
    table = found["data"]["divided"]["collectives"]
    # Feature mixing looks at other rows' raw features; everything else is the gradient.
    assert set(table) == {"all-gather data", "all-reduce data"}
    # But for a few numbers: lambda's four vectors exchange the gradient of their one product.
    assert abs(table["all-reduce data"]["bytes"] - parameters) <= 0.001 * parameters
    features = 16 * 16 * (sum((7, 5, 6)) * 4 + 3) // 8
    assert table["all-gather data"]["bytes"] <= 1.1 * features
