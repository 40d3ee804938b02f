"""A run: one folder with its config, its log, its checkpoints, and how to open it again.

run.json          config, corpus and versions, written once
metrics.jsonl     a line for every step and every epoch
tensorboard/      the same as TensorBoard scalars
checkpoints/last  what resuming needs; the newest two
checkpoints/best  the variables of the epoch that validation chose
report/           what `emojax evaluate` writes
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from emojax import __version__
from emojax.config import Config, DataConfig, MeshConfig, from_dict, to_dict
from emojax.config.corruption import Corruption
from emojax.data.altered import Corrupted, altered
from emojax.data.packing import plan_epoch
from emojax.data.pipeline import Batches
from emojax.data.prepare import PreparedCorpus, open_prepared, prepare
from emojax.data.readers import SPLITS
from emojax.dist.mesh import held_rows, mesh_here, row_shards
from emojax.errors import CheckpointError, ConfigError, DataError
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics, statistics
from emojax.types import Signature

LAST, BEST = Path("checkpoints/last"), Path("checkpoints/best")


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run whose corpus is open and whose model is built.

    Attributes:
      folder: where it lives.
      config: as it was started.
      corpus: its conversations, altered as the config says.
      model: the Flax module, a pure function of variables and batch.
    """

    folder: Path
    config: Config
    corpus: PreparedCorpus
    model: nn.Module

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def batches(
        self, split: str, *, training: bool = False, mesh: Mesh | None = None,
        corruptions: Sequence[Corruption] = (),
    ) -> Batches:  # fmt: skip
        """A split in batches: in order, or shuffled anew each epoch as training takes them.

        Args:
          mesh: over whose devices the rows are to be spread; each process reads its own.
          corruptions: of the conversations, besides those of the config.
        """
        train, records = self.config.train, self.corpus.split(split)
        if corruptions:
            records = Corrupted(records, self.corpus, corruptions)
        return Batches(
            records, self.corpus.lengths(split), self.corpus.signature.widths,
            self.config.data, seed=train.seed if training else None,
            rows_multiple=row_shards(mesh) * (train.accumulate if training else 1),
            held=held_rows(mesh),
        )  # fmt: skip

    def collection(self) -> dict[str, Any]:
        """The model's collection `statistics`: fitted, or the identity if the config says so."""
        if self.config.data.standardise:
            fitted = self.corpus.statistics
            return statistics(fitted.mean, fitted.deviation)
        return identity_statistics(self.corpus.signature.widths)


def create_run(folder: Path, config: Config) -> Run:
    """Prepare the corpus, build the model and write `run.json`.

    Raises:
      ConfigError: the folder holds a run already, or the config cannot be used.
      DataError: the corpus cannot be used.
    """
    if (folder / "run.json").exists():
        raise ConfigError(f"{folder} holds a run already. Resume it (--resume) or choose another")
    mesh_here(config.mesh)  # before anything is prepared, let alone compiled
    data = config.data
    corpus = altered(corpus_of(data), data)
    for split in ("train", "validation"):
        if len(corpus.ids(split)) == 0:
            raise DataError(f"the {split} split is empty", file=corpus.path)
    if corpus.statistics.label_counts.sum() == 0:
        raise DataError("no utterance of the training split is labelled", file=corpus.path)
    for split in SPLITS:
        if corpus.ids(split):  # there may be no test split
            _check_lengths(corpus, split, data)
    run = Run(folder, config, corpus, build(config.model, corpus.signature, config.train.remat))
    from emojax.train.transfer import lent  # which opens runs itself

    lent(run)  # what cannot be lent is known before the run exists
    content = {
        "config": to_dict(config),
        "corpus": {
            "path": str(corpus.path),
            "hashes": {split: dict(known) for split, known in corpus.hashes.items()},
            "text_encoder": corpus.text_encoder and dict(corpus.text_encoder),
        },
        "signature": dataclasses.asdict(corpus.signature),
        "versions": {"emojax": __version__, "jax": jax.__version__},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / ".run.json"
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        temporary.replace(folder / "run.json")
    except OSError as error:
        raise CheckpointError(f"{folder}: the run cannot be written here: {error}") from error
    return run


def corpus_of(data: DataConfig) -> PreparedCorpus:
    """The prepared corpus that a config names, prepared now if it was not yet.

    Raises:
      ConfigError: it was prepared with another text encoder.
      DataError: it cannot be used.
    """
    source = Path(data.source).expanduser()
    if (source / "dataset_info.json").is_file():
        corpus = open_prepared(source)
        made_by = corpus.text_encoder["name"] if corpus.text_encoder else ""
        if data.text_encoder not in ("", made_by):
            raise ConfigError(
                f"data.text_encoder is {data.text_encoder!r}, but {source} was prepared with "
                f"{made_by!r}. Prepare it again with --text-encoder"
            )
        return corpus
    return prepare(
        data.source, data.data_dir, skip_bad=data.skip_bad, split_rule=data.split_rule,
        validation_fraction=data.validation_fraction, text_encoder=data.text_encoder,
    )  # fmt: skip


def _check_lengths(corpus: PreparedCorpus, split: str, config: DataConfig) -> None:
    """A plan made for nothing, so that what cannot be batched is known before the run exists."""
    lengths = corpus.lengths(split)
    try:
        plan_epoch(lengths, config)
    except DataError as error:
        longest = corpus.ids(split)[int(lengths.argmax())]
        raise DataError(
            error.problem, file=corpus.path, conversation=longest, fix=error.fix
        ) from error


def read_run(folder: Path) -> tuple[Config, Signature, dict[str, Any]]:
    """Config, signature and corpus entry of `run.json`.

    Raises:
      CheckpointError: there is no run in the folder, or its `run.json` cannot be read.
    """
    path = folder / "run.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        signature = Signature.of(content["signature"])
        return from_dict(content["config"]), signature, content["corpus"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: there is no run here (no run.json)") from error
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def open_run(folder: Path, mesh: MeshConfig | None = None) -> Run:
    """Open a run on the very corpus that it was started on.

    Args:
      mesh: another arrangement of devices than the run was started with, which changes no result.

    Raises:
      ConfigError: the model cannot be arranged so.
      CheckpointError: there is no run in the folder.
      DataError: its corpus is gone or has changed.
    """
    config, signature, entry = read_run(folder)
    if mesh is not None:
        config = dataclasses.replace(config, mesh=mesh)
    corpus = open_prepared(entry["path"])
    hashes = {split: dict(known) for split, known in corpus.hashes.items()}
    if hashes != entry["hashes"]:
        raise DataError(
            "the corpus is not the one this run was started on", file=corpus.path,
            fix="Prepare the original again, or start a new run",
        )  # fmt: skip
    corpus = altered(corpus, config.data)
    return Run(folder, config, corpus, build(config.model, signature, config.train.remat))
