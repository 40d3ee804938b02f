"""A trained run as a folder that serves without emojax, tried in its runtime before it is there.

The folder holds the model, `example.npz` (raw inputs and the probabilities that are to come out),
`labels.json` and a card, as `README.md` and `card.json`. Nothing is left behind by an export that
failed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from emojax import __version__
from emojax.config import to_dict
from emojax.errors import ConfigError, DataError
from emojax.files import write_atomically
from emojax.interop.weights import Weights
from emojax.serve.formats import FORMATS, Exported
from emojax.serve.pretrained import weights_of
from emojax.serve.trial import AHEAD, Case, Served, cases, change_by_the_future, reference, try_out
from emojax.train.run import Run, open_run
from emojax.types import MODALITIES


def export_run(
    run_folder: Path, format: str, out: Path, console: Console, *, quantize: str | None = None,
    causal: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Export the epoch that validation chose; returns the card's content.

    Args:
      format: of `FORMATS`.
      out: folder, which must not hold anything yet.
      quantize: "int8" or None.
      causal: the model must not look ahead, which is measured before and after.

    Raises:
      ConfigError: the format cannot hold this model, or wants a package that is not there; the
        model looks ahead and must not; the folder is not empty.
      CheckpointError: there is no trained run.
      DataError: its corpus is gone; the export does not say what JAX says.
    """
    weights, run = weights_of(run_folder), open_run(run_folder)
    with _finished_or_not(out) as folder:
        tried = cases(run)
        ours = reference(weights, tried)
        if causal and (change := change_by_the_future(ours, tried)) > AHEAD:
            raise _looks_ahead(run, change)
        exported = FORMATS[format](weights, folder, quantize)
        _write_beside(folder, weights, tried[0], ours)
        card = try_out(run, tried, exported, ours, console)
        cannot = list(exported.cannot)
        if card["change_by_the_future"] > AHEAD:
            if causal:
                raise DataError(
                    f"{format} looks ahead: what comes later changes a probability by "
                    f"{card['change_by_the_future']:.1e}",
                    file=exported.model, fix="Nothing was exported. Please report it",
                )  # fmt: skip
            cannot.append("stream: an utterance's emotion depends on those after it")
        card |= {
            "format": format, "quantize": quantize, "causal": causal,
            "model": weights.config.name, "dataset": weights.signature.name,
            "emojax": __version__, **exported.facts, "cannot": cannot,
            "bytes": sum(path.stat().st_size for path in exported.files or [exported.model]),
        }  # fmt: skip
        if exported.finish is not None:
            exported.finish(run, card)
        write_atomically(folder / "card.json", json.dumps(card, indent=1) + "\n")
        write_atomically(folder / "README.md", render(card, weights, exported))
    return card


def _looks_ahead(run: Run, change: float) -> ConfigError:
    way = "Train one with --set model.causal=true"
    if run.config.model.name == "redifu_authors":
        way = "As published it always does; train redifu with --set model.causal=true"
    return ConfigError(
        f"{run.folder} looks ahead: what comes later changes a probability by {change:.1e}. {way}"
    )


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


def _write_beside(folder: Path, weights: Weights, example: Case, ours: Served) -> None:
    """The example with what is to come out, and the names behind the numbers."""
    arrays = example.arrays
    np.savez_compressed(folder / "example.npz", **arrays, probability=ours(arrays))  # type: ignore[arg-type]
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
    ahead = card["change_by_the_future"]
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
        "Looks ahead": f"{'yes' if ahead > AHEAD else 'no'}: what comes later changes a "
        f"probability by {ahead:.1e} at most",
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
        exported.usage, "", "What it cannot do:", "", *(f"- {each}" for each in card["cannot"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
