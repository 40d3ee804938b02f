"""What cards say of a variant's runs: mean ± sample deviation over seeds, or that they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emojax.evaluate.markup import short
from experiments.sheet import spread
from experiments.store import Result

SHOWN = 12
"""Digits that a card shows of a hash."""


def facts(runs: Sequence[Result], known: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What and value.

    Args:
      runs: of one variant, a seed each.
      known: the audits of those that were audited.
    """
    lanes = max((each["lanes"] for each in known), default=1)
    time = spread([run.seconds for run in runs], 1)
    return {
        **_scores(runs),
        "Seeds": short(sorted(run.seed for run in runs)),
        **(_protocol(known) if known else {}),
        "Parameters": _agreed([f"{run.parameters:,}" for run in runs]),
        **(_work(known[0]["flops_per_conversation"]) if known else {}),
        "Training": f"{time} s a run"
        + (f", a share of programs of up to {lanes} runs" if lanes > 1 else ""),
        **(_machine(known) if known else {}),
        "Commit": _agreed([_commit(run.commit) for run in runs]),
    }


def _scores(runs: Sequence[Result]) -> dict[str, str]:
    def told(metric: str, split: str = "test", scale: float = 100) -> str:
        return spread([scale * run.scores[split][metric] for run in runs], 1 if scale > 1 else 3)

    return {
        "Accuracy on test": f"{told('accuracy')} %",
        "Weighted and macro F1 on test": f"{told('weighted_f1')} %, {told('macro_f1')} %",
        "Accuracy on validation": f"{told('accuracy', 'validation')} %",
        "Calibration on test": f"ECE {told('ece')} %, NLL {told('nll', scale=1)} nats, "
        f"Brier score {told('brier', scale=1)}",
    }


def _protocol(known: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    epochs = [each["selection"]["epoch"] for each in known]
    found = {
        "Selection": _agreed([each["selection"]["rule"] for each in known]),
        "Epoch selected": f"{spread(epochs, 1)}, from {min(epochs)} to {max(epochs)}",
        "Corpus": _agreed([f"{each['dataset']}, {each['corpus']}" for each in known]),
        "Split rule": _agreed([each["split_rule"] for each in known]),
    }
    for split in known[0]["split_hashes"]:
        each_run = [each["split_hashes"].get(split, {}) for each in known]
        found[f"Hashes of {split}"] = _agreed([
            ", ".join(f"{what} {value[:SHOWN]}" for what, value in hashes.items())
            for hashes in each_run
        ])  # fmt: skip
    return found


def _work(counted: Mapping[str, Any]) -> dict[str, str]:
    return {
        "FLOPs per conversation": f"{_readable(counted['flops'])} of matrix products, forward, "
        f"for {counted['utterances']} utterances, the mean length on {counted['split']}",
    }


def _machine(known: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {
        "Memory": f"{spread([each['peak_memory_mib'] for each in known], 0)} MiB at its peak, of "
        "the process while it trained",
        "Devices": _agreed([f"{len(e['devices'])} × {e['devices'][0]}" for e in known]),
        "Versions": _agreed([short(each["versions"]) for each in known]),
    }


def _commit(name: str) -> str:
    return name[:SHOWN] + "+" * name.endswith("+") if name else "unknown"


def _agreed(values: Sequence[str]) -> str:
    different = list(dict.fromkeys(values))
    return different[0] if len(different) == 1 else f"DIFFERENT: {'; '.join(different)}"


def _readable(flops: int) -> str:
    for unit, power in (("TFLOP", 12), ("GFLOP", 9), ("MFLOP", 6)):
        if flops >= 10**power:
            return f"{flops / 10**power:.3g} {unit}"
    return f"{flops:,} FLOP"
