"""Trying an export in the runtime it is meant for, with real conversations."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate
from emojax.errors import DataError
from emojax.evaluate.metrics import score
from emojax.interop.serving import INPUTS, serve
from emojax.interop.weights import Weights
from emojax.serve.formats import Arrays, Exported
from emojax.train.run import Run
from emojax.types import MODALITIES, Batch, Conversation, Prediction

Served = Callable[[Arrays], Any]
"""Inputs by name, [B, L, ...], to probability [B, L, C]."""

TOLERANCE = 1e-4
"""Largest difference of a probability from JAX's that an export may show."""
QUANTISED_LOSS = 0.01
"""What a quantised export may lose of the weighted F1 on validation."""
AHEAD = 1e-6
"""Change of a probability by what comes after it up to which a model does not look ahead."""
LOOKS = 100
"""Timed calls of a runtime."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A batch that an export is tried with.

    Attributes:
      name: what is special about it.
      arrays: by the names of `INPUTS`, [B, L, ...].
      batch: the same.
    """

    name: str
    batch: Batch

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.asarray(getattr(self.batch, name)) for name in INPUTS}


def cases(run: Run) -> list[Case]:
    """Validation conversations of several lengths, alone, side by side, packed, with modalities
    missing; the first one is a conversation of median length by itself."""
    records, lengths = run.corpus.split("validation"), run.corpus.lengths("validation")
    order = np.argsort(lengths, kind="stable")
    places = [len(order) // 2, 0, len(order) - 1, len(order) // 4, 3 * len(order) // 4]
    chosen = [records[int(order[i])] for i in dict.fromkeys(places)]
    widths = run.corpus.signature.widths
    padded = run.config.model.name == "redifu_authors"

    def case(name: str, rows: Sequence[Sequence[Conversation]]) -> Case:
        flat, numbers = [each for row in rows for each in row], iter(range(1000))
        plan = tuple(tuple(next(numbers) for _ in row) for row in rows)
        length = max(sum(map(len, row)) for row in rows)
        extent = length if padded else None
        return Case(name, collate(BatchPlan(length, plan, extent=extent), flat, widths))

    def without(conversation: Conversation, modality: int) -> Conversation:
        present = conversation.present.copy()
        present[:, modality] = False
        hidden = {MODALITIES[modality]: np.zeros_like(getattr(conversation, MODALITIES[modality]))}
        return dataclasses.replace(conversation, present=present, **hidden)

    found = [case(f"{len(each)} utterances", [[each]]) for each in chosen[:3]]
    found.append(case("side by side", [[each] for each in chosen]))
    if not padded:
        found.append(case("packed", [chosen[::2], chosen[1::2] or chosen[:1]]))
    found += [
        case(f"without {name}", [[without(each, i)] for each in chosen])
        for i, name in enumerate(MODALITIES)
    ]
    return found


def in_one_shape(call: Served, rows: int, length: int) -> Served:
    """The same function, called with rows and columns added: what is compiled is so once."""

    def padded(arrays: Arrays) -> np.ndarray:
        given = arrays["segment"].shape
        spare = [(0, rows - given[0]), (0, length - given[1])]
        wide = {n: np.pad(x, spare + [(0, 0)] * (x.ndim - 2)) for n, x in arrays.items()}
        return np.asarray(call(wide))[: given[0], : given[1]]

    return padded


def reference(weights: Weights, cases: Sequence[Case]) -> Served:
    """What JAX says, in one shape that holds every case."""
    function = jax.jit(serve(weights.build(), jax.device_put(dict(weights.variables))))
    rows, length = np.max([case.batch.segment.shape for case in cases], 0)
    return in_one_shape(lambda arrays: function(*arrays.values())[0], rows, length)


def try_out(
    run: Run, cases: Sequence[Case], exported: Exported, ours: Served, console: Console
) -> dict[str, Any]:
    """Run it on real validation conversations, beside `ours`, which is JAX's.

    Raises:
      DataError: it says something else.
    """
    differences, quantised = {}, exported.quantised
    for case in track(cases, "Trying out", console=console, transient=True):
        arrays = case.arrays
        expected = ours(arrays)
        found = np.asarray(exported.run(arrays))
        real = arrays["segment"] > 0
        if found.shape != expected.shape or not np.isfinite(found[real]).all():
            raise DataError(f"the export has no probabilities for {case.name}", file=exported.model)
        differences[case.name] = float(np.abs(found - expected)[real].max())
    largest = max(differences.values())
    console.print(f"Largest difference from JAX: {largest:.1e}", highlight=False)
    if largest > TOLERANCE and not quantised:
        worst = max(differences, key=lambda name: differences[name])
        raise DataError(
            f"the export is off by {largest:.1e} ({worst}); {TOLERANCE:.0e} is the most",
            file=exported.model, fix="Nothing was exported. Please report it",
        )  # fmt: skip
    before, after = _scores(run, exported, ours, console)
    if quantised and after < before - QUANTISED_LOSS:
        raise DataError(
            f"quantised, the weighted F1 falls from {before:.4f} to {after:.4f}",
            file=exported.model, fix="Nothing was exported. Export it without --quantize",
        )  # fmt: skip
    return {
        "differences": differences, "largest_difference": largest,
        "change_by_the_future": change_by_the_future(exported.run, cases),
        "validation_weighted_f1": {"jax": before, "exported": after},
        "latency_ms": latency(exported.run, cases[0].arrays),
        "utterances_of_latency": int(cases[0].batch.segment.shape[1]),
    }  # fmt: skip


def change_by_the_future(run: Served, cases: Sequence[Case]) -> float:
    """Largest change of a probability in the first half of any conversation when the second is
    another one (features, modalities and speakers), or is cut off."""
    draw, largest = np.random.default_rng(0), 0.0
    for case in cases:
        arrays = case.arrays
        segment, later = arrays["segment"], np.zeros(arrays["segment"].shape, bool)
        for row, numbers in enumerate(segment):
            for number in set(numbers[numbers > 0].tolist()):
                columns = np.flatnonzero(numbers == number)
                later[row, columns[max(1, len(columns) // 2) :]] = True
        other, cut = dict(arrays), dict(arrays)
        for name in MODALITIES:
            x = arrays[name]
            noise = draw.normal(x.mean(), x.std() + 1, x.shape).astype(x.dtype)
            other[name] = np.where(later[..., None], noise, x)
        other["present"] = arrays["present"] ^ later[..., None]
        other["speaker"] = np.where(later, arrays["speaker"].max() - arrays["speaker"],
                                    arrays["speaker"])  # fmt: skip
        cut["segment"] = np.where(later, 0, segment)
        seen, past = np.asarray(run(arrays)), (segment > 0) & ~later
        for changed in (other, cut):
            largest = max(largest, float(np.abs(np.asarray(run(changed)) - seen)[past].max()))
    return largest


def _scores(run: Run, exported: Exported, ours: Served, console: Console) -> tuple[float, float]:
    """Weighted F1 on validation, JAX's and the export's, conversation by conversation."""
    records, signature = run.corpus.split("validation"), run.corpus.signature
    theirs = exported.run
    if exported.compiles:
        theirs = in_one_shape(theirs, 1, max(map(len, records)))
    said: tuple[list[Prediction], list[Prediction]] = ([], [])
    for record in track(records, "Scoring", console=console, transient=True):
        length = len(record)
        batch = collate(BatchPlan(length, ((0,),), extent=length), [record], signature.widths)
        for which, call in zip(said, (ours, theirs), strict=True):
            found = np.asarray(call(Case("", batch).arrays), np.float64)[0]
            which.append(
                Prediction(
                    record.id, found / found.sum(-1, keepdims=True),
                    np.zeros((length, len(MODALITIES)), np.float32), record.present,
                    record.speaker, record.label, record.transcript,
                )
            )  # fmt: skip
    before, after = (score(each, len(signature.labels)).weighted_f1 for each in said)
    return float(before), float(after)


def latency(run: Served, arrays: Arrays) -> dict[str, float]:
    """Milliseconds of a call with one conversation: median and 95th percentile of `LOOKS`."""
    times = []
    for i in range(LOOKS + 5):
        started = time.perf_counter()
        np.asarray(run(arrays))
        if i >= 5:
            times.append(1000 * (time.perf_counter() - started))
    return {"p50": float(np.median(times)), "p95": float(np.percentile(times, 95))}
