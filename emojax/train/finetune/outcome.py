"""What a fine-tuning leaves: the encoder, the decision on top of it, and the test's scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save

from emojax.config import digest, to_dict
from emojax.data.text_folder import write_folder
from emojax.errors import CheckpointError
from emojax.evaluate.export import write_predictions
from emojax.evaluate.metrics import score
from emojax.files import write_atomically
from emojax.train.finetune.examples import context_of
from emojax.train.finetune.optimiser import parameters, together
from emojax.train.finetune.predict import log_probabilities, make_predict
from emojax.train.finetune.run import Tuning
from emojax.train.finetune.step import Program
from emojax.train.progress import told
from emojax.train.reads import count_read

DEPTHS = 1
"""Of features: the decision was trained on the last hidden state alone."""


def finished(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a fine-tuning that is over, else None.

    Raises:
      CheckpointError: it cannot be read.
    """
    path = folder / "result.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}. Delete it and resume") from error


def finish(
    tuning: Tuning, program: Program, trained: Any, frozen: Any, notes: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:  # fmt: skip
    """Score the test split once, and write the encoder, its head and `result.json`.

    Args:
      trained: of the epoch that validation chose.

    Raises:
      DataError: a file cannot be written.
    """
    config, folder, examples = tuning.config, tuning.folder, tuning.examples["test"]
    count_read(folder, digest(config))
    found = log_probabilities(
        make_predict(program), trained, frozen, examples, tuning.lengths, config.data.batch
    )
    predictions = examples.predictions(np.exp(found))
    write_predictions(folder, predictions, tuning.signature.labels, tuning.signature.speakers)
    params = jax.device_get(together(trained, frozen, config.text))
    write_folder(
        folder / "encoder", tuning.encoder.folder, {"params": params["encoder"]},
        context_of(config), DEPTHS,
    )  # fmt: skip
    labels = json.dumps(list(tuning.signature.labels))
    head = {name: np.asarray(value) for name, value in params["head"].items()}
    write_atomically(folder / "head.safetensors", save(head, {"labels": labels}))
    result = {
        "config": to_dict(config),
        "digest": digest(config),
        "conversations": {s: len(each.conversations) for s, each in tuning.examples.items()},
        "parameters": {"trained": parameters(trained), "frozen": parameters(frozen)},
        "device": jax.devices()[0].device_kind,
        "seconds": seconds,
        "history": notes["history"],
        "best": notes["best"],
        "test": told(score(predictions, found.shape[-1])),
    }
    write_atomically(folder / "result.json", json.dumps(result, indent=1) + "\n")
    return result
