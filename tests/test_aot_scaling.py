"""The scaling study's formulas, and that finished points are not compiled again."""

from __future__ import annotations

from typing import Any

import pytest

from emojax.dist.aot import DoesNotFit
from experiments import aot_scaling
from experiments.aot_scaling import CHIP, exchange, markdown, plot, point, settings, summarise

GB = 10**9


def said(kind: str, group: int, size: int, times: int | None = 1) -> dict[str, Any]:
    return {"kind": kind, "group": group, "bytes": size, "times": times}


@pytest.mark.parametrize(
    ("collective", "seconds"),
    [
        (said("all-gather", 4, GB), 0.03),  # 3 GB of the others
        (said("reduce-scatter", 4, 4 * GB), 0.03),
        (said("all-reduce", 4, 4 * GB), 0.06),  # a reduce-scatter and an all-gather
        (said("all-reduce", 4, 4 * GB, 3), 0.18),
        (said("all-to-all", 4, GB), 0.01),
        (said("collective-permute", 2, GB), 0.02),  # one link of two
    ],
)
def test_a_ring_of_v5e_moves_100_gb_in_a_second(collective, seconds):
    assert exchange(collective) == pytest.approx(seconds)


def report(chips: int, collectives: list[dict[str, Any]]) -> dict[str, Any]:
    program = {
        "rows": 4 * chips, "flops": CHIP.flops / 10, "kernel_flops": CHIP.flops / 10,
        "bytes": CHIP.hbm_bandwidth / 10, "memory": {"total": 1 << 30}, "compile_seconds": 1.0,
        "collectives": {"all-reduce data": {"count": len(collectives), "bytes": GB}},
        "each_collective": collectives,
    }  # fmt: skip
    return {"parameters": 2 * GB, "mesh": {"data": chips, "fsdp": 1}, "programs": [program]}


def test_points_are_compiled_once_and_compared_with_the_fewest_chips_that_fit(
    monkeypatch, tmp_path
):
    asked = []

    def aot(config: Any, where: Any, corpus: Any) -> dict[str, Any]:
        asked.append(where.chips)
        if where.chips == 1:
            raise DoesNotFit("too much")
        return report(where.chips, [said("all-reduce", where.chips, 10 * GB)])

    monkeypatch.setattr(aot_scaling, "aot", aot)
    for _ in range(2):
        reports = [point("large", chips, tmp_path) for chips in (1, 4, 256)]
    assert asked == [1, 4, 256]
    rows = summarise(reports)
    assert rows[0] == {"model": "large", "chips": 1, "why": "too much"}
    # Arithmetic 0.2 s; exchange 0.15 s on 4 chips, 0.2 s x 255 / 256 on 256.
    assert rows[1]["efficiency"] == {"overlapped": 1, "in turn": 1}
    assert rows[2]["efficiency"]["overlapped"] == pytest.approx(1)
    assert rows[2]["efficiency"]["in turn"] == pytest.approx(0.35 / (0.2 + 0.2 * 255 / 256))
    table = markdown(rows).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert "does not fit" in table[2]
    plot(rows, tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


@pytest.mark.parametrize("chips", [4, 256])
def test_every_chip_keeps_its_share_of_the_batch(chips):
    from emojax.config import from_dict, override

    for model in ("default", "large"):
        one, many = (from_dict(override(*settings(model, n))) for n in (1, chips))
        assert many.data.batch_utterances == chips * one.data.batch_utterances
        assert (many.mesh.data or 1) * many.mesh.fsdp == chips
    assert many.mesh.fsdp == min(chips, 16)
