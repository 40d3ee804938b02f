"""Emotions of conversations that a run has never seen; its training corpus need not be there."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from emojax.config import ModelConfig
from emojax.data.pipeline import Batches
from emojax.data.text_encoder import reopen_text_encoder
from emojax.data.unseen import read_unseen
from emojax.dist.mesh import held_rows, mesh_here, row_shards
from emojax.evaluate.export import write_predictions
from emojax.evaluate.predict import make_predict, predict_split
from emojax.files import write_atomically
from emojax.models.registry import build
from emojax.train.evaluation import best_variables
from emojax.train.run import read_run

WORTH_A_BAR = 64
"""Conversations from which a progress bar is shown."""


def predict_file(run_folder: Path, input: Path, out: Path, *, skip_bad: bool = False) -> list[Path]:
    """Predict every conversation of a file, whatever split it is in.

    Args:
      run_folder: a run with at least one finished epoch.
      input: JSON lines, a feature file or folder of any known layout, or a prepared corpus.
      out: folder for `predictions.jsonl` and `predictions.csv`.
      skip_bad: set bad conversations aside, listed and counted in `skipped.json`.

    Returns:
      The files written.

    Raises:
      CheckpointError: no run, or nothing trained.
      ConfigError: the text encoder that the run was trained with is not installed.
      DataError: an input that cannot be read, or does not fit the model's widths, labels or,
        where it embeds them, speakers; files that cannot be written.
    """
    config, signature, entry = read_run(run_folder)
    made_by = entry.get("text_encoder")
    corpus = read_unseen(
        input, signature, reopen_text_encoder(made_by) if made_by else None,
        any_speaker=not embeds_speakers(config.model), skip_bad=skip_bad,
    )  # fmt: skip
    conversations = [each for split in corpus.splits.values() for each in split]
    model = build(config.model, signature)
    mesh = mesh_here(config.mesh, or_rows=True)
    variables, _ = best_variables(run_folder, model, signature, mesh)
    batches = Batches(
        conversations, np.array([len(each) for each in conversations], np.int32),
        signature.widths, dataclasses.replace(config.data, overlong="own_bucket"),
        rows_multiple=row_shards(mesh), held=held_rows(mesh),
    )  # fmt: skip
    console = Console(stderr=True)
    visible = console.is_terminal and len(conversations) >= WORTH_A_BAR
    with Progress(console=console, transient=True, disable=not visible) as progress:
        task = progress.add_task("Predicting", total=len(conversations))
        predictions = predict_split(
            make_predict(model, mesh=mesh), variables, batches,
            lambda count: progress.advance(task, count), mesh,
        )  # fmt: skip
    names = (signature.labels, corpus.signature.speakers)
    paths = list(write_predictions(out, predictions, *names))
    if skip_bad:
        skipped = [str(error) for error in corpus.skipped]
        content = json.dumps({"count": len(skipped), "items": skipped}, indent=1) + "\n"
        paths.append(write_atomically(out / "skipped.json", content))
        if skipped:
            warnings.warn(
                f"bad conversations set aside: {len(skipped)}, listed in {paths[-1]}", stacklevel=2
            )
    return paths


def embeds_speakers(config: ModelConfig) -> bool:
    """Whether a model learns who the speakers are, so that only those it learned can speak."""
    return getattr(config, "speaker_embedding", True)
