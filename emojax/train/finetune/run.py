"""A fine-tuning: one folder with its config, its log, its checkpoints and what comes of it.

run.json          config, corpus, encoder and versions, written once
metrics.jsonl     a line for every step and every epoch
tensorboard/      the same as TensorBoard scalars
checkpoints/      what resuming needs, and the epoch that validation chose; gone when all is done
encoder/          the fine-tuned encoder, a folder for data.text_encoder and for Hugging Face's code
head.safetensors  the decision that was trained on top of it
predictions.*     of the test split, as `emojax predict` writes them
result.json       scores of all epochs on validation and of the chosen one on test
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax

from emojax import __version__
from emojax.config import digest, from_dict, to_dict
from emojax.config.finetune import FinetuneConfig
from emojax.data.text_encoder import TextEncoder, open_text_encoder
from emojax.errors import CheckpointError, ConfigError, DataError
from emojax.files import write_atomically
from emojax.train.finetune.examples import Examples, corpus_hashes, read_examples
from emojax.types import Signature


@dataclasses.dataclass(frozen=True, eq=False)
class Tuning:
    """A fine-tuning whose corpus is read and whose encoder is open.

    Attributes:
      folder: where it lives.
      config: as it was started.
      encoder: where it starts from.
      signature: of the corpus. examples: by split.
    """

    folder: Path
    config: FinetuneConfig
    encoder: TextEncoder
    signature: Signature
    examples: dict[str, Examples]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of batches, in word pieces."""
        return (*self.config.data.buckets, self.config.text.tokens)


def create_tuning(folder: Path, config: FinetuneConfig) -> Tuning:
    """Read what is to be learned from, and write `run.json`.

    Raises:
      ConfigError: the folder holds a run already, or the config cannot be used.
      DataError: the corpus or the encoder cannot be used.
    """
    if (folder / "run.json").exists():
        raise ConfigError(f"{folder} holds a run already. Resume it (--resume) or choose another")
    tuning = _read(folder, config)
    write_atomically(folder / "run.json", json.dumps(_about(tuning), indent=1) + "\n")
    return tuning


def open_tuning(folder: Path) -> Tuning:
    """Open a fine-tuning on the very corpus and encoder that it was started on.

    Raises:
      CheckpointError: there is none in the folder.
      DataError: its corpus or encoder is gone or has changed.
    """
    config, content = read_tuning(folder)
    tuning = _read(folder, config)
    about = _about(tuning)
    for name in ("corpus", "encoder"):
        if about[name] != content[name]:
            raise DataError(
                f"the {name} is not the one that this fine-tuning was started on", file=folder,
                fix=f"Bring the original {name} back, or start anew in another folder",
            )  # fmt: skip
    return tuning


def read_tuning(folder: Path) -> tuple[FinetuneConfig, dict[str, Any]]:
    """Config and content of `run.json`.

    Raises:
      CheckpointError: there is none, or it is not of a fine-tuning.
    """
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content["corpus"], content["encoder"]
        return from_dict(content["config"], FinetuneConfig), content
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: there is no run here (no run.json)") from error
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: not of a fine-tuning: {error}") from error


def _read(folder: Path, config: FinetuneConfig) -> Tuning:
    encoder = open_text_encoder(config.text.encoder)
    if config.text.freeze_layers > encoder.config.layers:
        raise ConfigError(
            f"text.freeze_layers must be at most {encoder.config.layers}, the layers of "
            f"{encoder.name}, not {config.text.freeze_layers}"
        )
    signature, examples = read_examples(config, encoder)
    return Tuning(folder, config, encoder, signature, examples)


def _about(tuning: Tuning) -> dict[str, Any]:
    return {
        "config": to_dict(tuning.config),
        "digest": digest(tuning.config),
        "corpus": corpus_hashes(tuning.examples),
        "encoder": {"name": tuning.encoder.name, "fingerprint": tuning.encoder.fingerprint},
        "labels": list(tuning.signature.labels),
        "versions": {"emojax": __version__, "jax": jax.__version__},
    }
