"""A trained run as a folder that serves without emojax, tried in its runtime before it is there.

The folder holds the model, `example.npz` (raw inputs and the probabilities that are to come out),
`labels.json` and a card, as `README.md` and `card.json`. Nothing is left behind by an export that
failed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from emojax import __version__
from emojax.config import RedifuAuthorsConfig, to_dict
from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate
from emojax.errors import ConfigError, DataError
from emojax.evaluate.metrics import score
from emojax.evaluate.predict import make_predict, predict_split
from emojax.files import write_atomically
from emojax.interop.serving import INPUTS, serve
from emojax.interop.weights import Weights
from emojax.serve.formats import FORMATS, Exported
from emojax.serve.pretrained import weights_of
from emojax.train.run import Run, open_run
from emojax.types import MODALITIES, Batch, Conversation, Prediction

TOLERANCE = 1e-4
"""Largest difference of a probability from JAX's that an export may show."""
QUANTISED_LOSS = 0.01
"""What a quantised export may lose of the weighted F1 on validation."""
LOOKS = 100
"""Timed calls of a runtime."""


def export_run(
    run_folder: Path, format: str, out: Path, console: Console, *, quantize: str | None = None,
    causal: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Export the epoch that validation chose; returns the card's content.

    Args:
      format: of `FORMATS`.
      out: folder, which must not hold anything yet.
      quantize: "int8" or None.
      causal: the model must not look ahead.

    Raises:
      ConfigError: the format cannot hold this model, or wants a package that is not there; the run
        was not trained as causal; the folder is not empty.
      CheckpointError: there is no trained run.
      DataError: its corpus is gone; the export does not say what JAX says.
    """
    weights = weights_of(run_folder)
    if causal and not getattr(weights.config, "causal", False):
        raise ConfigError(
            f"{run_folder} was trained looking ahead. Train it with --set model.causal=true"
        )
    run = open_run(run_folder)
    with _finished_or_not(out) as folder:
        exported = FORMATS[format](weights, folder, quantize)
        ours = jax.jit(serve(weights.build(), jax.device_put(dict(weights.variables))))
        _write_beside(folder, weights, cases(run)[0], ours)
        card = try_out(run, weights, exported, ours, console)
        card |= {
            "format": format, "quantize": quantize, "causal": causal,
            "model": weights.config.name, "dataset": weights.signature.name,
            "emojax": __version__, **exported.facts, "cannot": list(exported.cannot),
            "bytes": sum(path.stat().st_size for path in exported.files or [exported.model]),
        }  # fmt: skip
        if exported.finish is not None:
            exported.finish(run, card)
        write_atomically(folder / "card.json", json.dumps(card, indent=1) + "\n")
        write_atomically(folder / "README.md", render(card, weights, exported))
    return card


@contextlib.contextmanager
def _finished_or_not(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` if all goes well, and else is gone."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} holds something already. Choose another folder, or empty it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", file=out) from error
    try:
        yield folder
        if out.exists():
            out.rmdir()
        folder.chmod(0o755)
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def try_out(
    run: Run, weights: Weights, exported: Exported, ours: Callable[..., Any], console: Console
) -> dict[str, Any]:
    """Run it on real validation conversations, beside `ours`, which is JAX's.

    Raises:
      DataError: it says something else.
    """
    differences, quantised = {}, exported.quantised
    for case in track(cases(run), "Trying out", console=console, transient=True):
        arrays = case.arrays
        expected = np.asarray(ours(*arrays.values())[0])
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
    before, after = _scores(run, weights, exported, console)
    if quantised and after < before - QUANTISED_LOSS:
        raise DataError(
            f"quantised, the weighted F1 falls from {before:.4f} to {after:.4f}",
            file=exported.model, fix="Nothing was exported. Export it without --quantize",
        )  # fmt: skip
    return {
        "differences": differences, "largest_difference": largest,
        "validation_weighted_f1": {"jax": before, "exported": after},
        "latency_ms": latency(exported.run, cases(run)[0].arrays),
        "utterances_of_latency": int(cases(run)[0].batch.segment.shape[1]),
    }  # fmt: skip


def _scores(
    run: Run, weights: Weights, exported: Exported, console: Console
) -> tuple[float, float]:
    """Weighted F1 on validation, JAX's and the export's, conversation by conversation."""
    predict = make_predict(run.model, explain=False)
    said = predict_split(
        predict, jax.device_put(dict(weights.variables)), run.batches("validation")
    )
    records, classes = run.corpus.split("validation"), len(weights.signature.labels)
    extent = isinstance(weights.config, RedifuAuthorsConfig)
    again: list[Prediction] = []
    for i in track(range(len(said)), "Scoring", console=console, transient=True):
        length = len(records[i])
        plan = BatchPlan(length, ((0,),), extent=length if extent else None)
        batch = collate(plan, [records[i]], weights.signature.widths)
        found = np.asarray(exported.run(Case("", batch).arrays), np.float64)[0]
        again.append(dataclasses.replace(said[i], probability=found / found.sum(-1, keepdims=True)))
    before, after = (score(each, classes).weighted_f1 for each in (said, again))
    return float(before), float(after)


def latency(run: Callable[[dict[str, np.ndarray]], Any], arrays: dict[str, np.ndarray]) -> Any:
    """Milliseconds of a call with one conversation: median and 95th percentile of `LOOKS`."""
    times = []
    for i in range(LOOKS + 5):
        started = time.perf_counter()
        np.asarray(run(arrays))
        if i >= 5:
            times.append(1000 * (time.perf_counter() - started))
    return {"p50": float(np.median(times)), "p95": float(np.percentile(times, 95))}


def _write_beside(folder: Path, weights: Weights, example: Case, ours: Callable[..., Any]) -> None:
    """The example with what is to come out, and the names behind the numbers."""
    arrays = example.arrays
    probability = ours(*arrays.values())[0]
    np.savez_compressed(folder / "example.npz", **arrays, probability=np.asarray(probability))  # type: ignore[arg-type]
    signature = weights.signature
    names = {
        "labels": signature.labels, "speakers": signature.speakers,
        "widths": dict(zip(MODALITIES, signature.widths, strict=True)),
        "modalities": MODALITIES, "text_encoder": weights.text_encoder,
        "config": to_dict(weights.config),
    }  # fmt: skip
    write_atomically(folder / "labels.json", json.dumps(names, indent=1) + "\n")


def render(card: dict[str, Any], weights: Weights, exported: Exported) -> str:
    """The card as Markdown."""
    scores, times = card["validation_weighted_f1"], card["latency_ms"]
    files = ", ".join(path.name for path in exported.files or [exported.model])
    rows = {
        "Model": f"{card['model']}, trained on {card['dataset']}",
        "Size": f"{card['bytes'] / 1e6:.2f} MB ({files})",
        **{name: str(value) for name, value in exported.facts.items()},
        "Largest difference from JAX": f"{card['largest_difference']:.1e} of a probability, over "
        f"{len(card['differences'])} batches of validation conversations",
        "Weighted F1 on validation": f"{scores['jax']:.4f} in JAX, {scores['exported']:.4f} here",
        "Latency": f"{times['p50']:.1f} ms (median), {times['p95']:.1f} ms (95th percentile) for a "
        f"conversation of {card['utterances_of_latency']} utterances, on the CPU that exported it",
        "emojax": card["emojax"],
    }
    lines = [
        f"# {card['model']} for {card['format']}", "",
        f"Emotions: {', '.join(weights.signature.labels)}.", "",
        "| What | Value |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items()), "",
        "Inputs are raw features: `text`, `audio`, `visual` f32[B, L, D], `present` bool[B, L, 3] "
        "(text, audio, visual; features of what is missing do not count), `speaker` i32[B, L], "
        "`segment` i32[B, L] (0 is padding, 1, 2, ... are the conversations that share a row). "
        "`probability` f32[B, L, C] comes out. `example.npz` has one conversation and what is to "
        "come out, `labels.json` the names.", "",
        exported.usage, "", "What it cannot do:", "", *(f"- {each}" for each in exported.cannot),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
