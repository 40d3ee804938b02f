"""What compiling ahead of time found, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from emojax.dist.aot import readable


def render(report: dict[str, Any]) -> Group:
    """The report as tables; figures are those of one device."""
    mesh = ", ".join(f"{axis} {size}" for axis, size in report["mesh"].items() if size > 1)
    programs = report["programs"]
    heads = [f"{p['rows']} x {p['length']}" for p in programs]
    costs = _table(
        f"{report['slice']}, mesh {mesh or 'of one device'}: {report['parameters'] / 1e6:,.1f} M "
        "parameters, of each device", "batch", heads,
    )  # fmt: skip
    for name in programs[0]["memory"]:
        costs.add_row(
            "memory" if name == "total" else f"  {name}",
            *(readable(p["memory"][name]) for p in programs),
        )
    share = [p["memory"]["total"] / report["device_memory"] for p in programs]
    costs.add_row(f"  of {readable(report['device_memory'])}", *(f"{s:.1%}" for s in share))
    for name, quantity in (
        ("FLOPs, by XLA", "flops"), ("FLOPs in kernels", "kernel_flops"),
        ("bytes accessed", "bytes"),
    ):  # fmt: skip
        costs.add_row(name, *(f"{p[quantity]:.3g}" for p in programs))
    costs.add_row("Pallas kernels", *(str(sum(p["kernels"].values())) for p in programs))
    costs.add_row("compiled in", *(f"{p['compile_seconds']:.0f} s" for p in programs))
    said = _table("Collectives of a step: times, bytes of operands", "kind and axes", heads)
    for name in sorted({name for p in programs for name in p["collectives"]}):
        rows = [p["collectives"].get(name, {"count": 0, "bytes": 0}) for p in programs]
        said.add_row(name, *(f"{row['count']} x, {readable(row['bytes'])}" for row in rows))
    notes = []
    if any(p["loops"] for p in programs):
        notes.append("FLOPs and bytes count the body of a loop once, however often it runs.")
    return Group(costs, *([said] if said.row_count else []), *notes)


def _table(title: str, first: str, heads: Sequence[str]) -> Table:
    table = Table(first, title=title, title_justify="left")
    for head in heads:
        table.add_column(head, justify="right")
    return table
