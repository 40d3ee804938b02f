"""From a source on disk to a prepared corpus: read, checked, split and stored once.

A preparation is named by a digest of its source and options. It appears under its name only when
it is complete, so whatever stands there can be used, and the same call again reuses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import io
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from emojax.data.encoded import read_encoded
from emojax.data.progress import progress
from emojax.data.readers import Corpus, fingerprint
from emojax.data.splits import OFFICIAL, check_rule
from emojax.data.statistics import Statistics, spread
from emojax.data.text_encoder import TextEncoder, open_text_encoder
from emojax.errors import DataError
from emojax.types import Conversation, Signature

if TYPE_CHECKING:
    from emojax.data.simulator import SimulatorConfig

_SPREADS: dict[str, dict[str, np.ndarray]] = {}
"""By the training split's hash: corpora are opened many times, and this takes reading all of it."""

_AGAIN = "Delete the folder and prepare the corpus again"


class Records(Sequence[Conversation]):
    """The stored conversations of one split, read and decoded one at a time.

    Raises:
      DataError: on access, if a record is damaged.
    """

    def __init__(self, source: Any, ids: Sequence[str], lengths: Sequence[int], files: list[Path]):
        self._source = source
        self._ids = ids
        self._lengths = lengths
        self._files = files
        self._ends = list(accumulate(source.dataset_info.splits[source.split].shard_lengths))

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: SupportsIndex) -> Conversation:  # type: ignore[override]
        from emojax.data.builders import decode

        place = index.__index__()
        place += len(self) if place < 0 else 0
        if not 0 <= place < len(self):
            raise IndexError(f"record {place} of {len(self)}")
        file = self._files[bisect_right(self._ends, place)]
        name = self._ids[place]
        try:
            conversation = decode(self._source[place])
        except Exception as error:  # whatever the record format or its decoder raises on damage
            raise _damaged(f"the record cannot be read ({error})", file, name) from error
        if conversation.id != name or len(conversation) != self._lengths[place]:
            raise _damaged("the record is of another conversation", file, name)
        return conversation


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedCorpus:
    """A corpus ready to be read at random.

    Attributes:
      path: its folder.
      signature: names and widths.
      layout: what it was read from, in words.
      split_rule: how it was split.
      text_encoder: "name" and "fingerprint" of what made the text features, or None.
      statistics: of the training split.
      skipped: one error for each conversation set aside.
      hashes: of each split, sha256 of its "ids" (in any order) and of its "content".
    """

    path: Path
    signature: Signature
    layout: str
    split_rule: str
    text_encoder: Mapping[str, str] | None
    statistics: Statistics
    skipped: tuple[DataError, ...]
    hashes: Mapping[str, Mapping[str, str]]
    _builder: Any
    _splits: Mapping[str, Mapping[str, Any]]

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the conversations, in the order of the records."""
        return tuple(self._known(split)["ids"])

    def lengths(self, split: str) -> np.ndarray:
        """i32[N] utterances of each conversation, without reading the records."""
        return np.array(self._known(split)["lengths"], np.int32)

    @property
    def spread(self) -> dict[str, np.ndarray]:
        """f64[D_m] of each modality, see `statistics.spread`: of the whole training split as it was
        prepared, whatever of it a run trains on."""
        key = self.hashes["train"]["content"]
        if key not in _SPREADS:
            _SPREADS[key] = spread(PreparedCorpus.split(self, "train"), self.signature.widths)
        return _SPREADS[key]

    def split(self, split: str) -> Sequence[Conversation]:
        """The conversations of a split.

        Raises:
          DataError: no such split, or its files are missing or damaged.
        """
        known = self._known(split)
        try:
            source = self._builder.as_data_source(split)
            files = [Path(name) for name in self._builder.info.splits[split].filepaths]
        except Exception as error:  # whatever TFDS makes of a damaged description
            raise _damaged(f"the {split} split cannot be opened ({error})", self.path) from error
        for file in files:
            if not file.is_file():
                raise _damaged("the file is missing", file)
        if len(source) != len(known["ids"]):
            raise _damaged(f"{len(source)} records instead of {len(known['ids'])}", files[0])
        return Records(source, known["ids"], known["lengths"], files)

    def _known(self, split: str) -> Mapping[str, Any]:
        if split not in self._splits:
            raise DataError(
                f"there is no split {split!r}",
                file=self.path,
                fix=f"Splits are {', '.join(self._splits)}",
            )
        return self._splits[split]


def prepare(
    source: str | Path | SimulatorConfig,
    data_dir: str | Path,
    *,
    skip_bad: bool = False,
    split_rule: str = OFFICIAL,
    validation_fraction: float | None = None,
    text_encoder: str | TextEncoder = "",
) -> PreparedCorpus:
    """Reads, checks, splits and stores a corpus, or finds it stored already.

    Args:
      source: see `read_corpus`.
      data_dir: folder for prepared corpora; made if it is not there.
      skip_bad: set bad conversations aside in a list instead of stopping at the first.
      split_rule, validation_fraction: see `emojax.data.splits.make_splits`.
      text_encoder: what makes the text features, open or by the name that
        `emojax.data.text_encoder` opens; "" keeps those of the source.

    Raises:
      DataError: a source or an encoder that cannot be used, or a folder that cannot be written.
      ConfigError: an impossible rule or fraction, or an encoder that is not installed.
    """
    from emojax.data.builders import config_name, prepared_folders

    check_rule(split_rule)
    digest = fingerprint(source)
    encoder = text_encoder or None
    if isinstance(encoder, str):
        encoder = open_text_encoder(encoder)
    config = config_name(
        digest,
        split_rule,
        validation_fraction,
        skip_bad,
        None if encoder is None else encoder.fingerprint,
    )
    root = Path(data_dir).expanduser().absolute()
    if found := prepared_folders(root, config=config):
        return open_prepared(found[0])
    corpus = read_encoded(source, encoder, skip_bad=skip_bad)
    options = {
        "split_rule": split_rule,
        "validation_fraction": validation_fraction,
        "text_encoder": encoder or "",
    }
    with _unwritable_is_clear(root), _one_at_a_time(root):
        # Somebody else may have prepared it while this process waited for its turn.
        if not (found := prepared_folders(root, config=config)):
            found = [_build(source, corpus, root, config, skip_bad=skip_bad, **options)]
    return open_prepared(found[0])


def open_prepared(path: str | Path) -> PreparedCorpus:
    """Opens a prepared corpus by its folder, or by a folder above it that holds only one.

    Raises:
      DataError: nothing or more than one preparation there, or a damaged one.
    """
    path = Path(path).expanduser().absolute()
    found = [path] if (path / "dataset_info.json").is_file() else find_prepared(path)
    if not found:
        raise DataError("no prepared corpus here", file=path, fix="Prepare one with `prepare`")
    if len(found) > 1:
        names = ", ".join(str(each.relative_to(path)) for each in found)
        raise DataError(f"{len(found)} prepared corpora here", file=path, fix=f"Name one: {names}")
    return _open(found[0])


def find_prepared(path: Path) -> list[Path]:
    """The complete preparations below a data folder, a builder's or a config's folder."""
    from emojax.data.builders import VERSION, prepared_folders

    inside = (path.glob(f"{depth}{VERSION}/dataset_info.json") for depth in ("*/", ""))
    below = sorted({found.parent for each in inside for found in each})
    return prepared_folders(path) or [each for each in below if (each / "metadata.json").is_file()]


def _open(path: Path) -> PreparedCorpus:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(path)
        metadata = dict(builder.info.metadata)
        return PreparedCorpus(
            path=path,
            signature=Signature.of(metadata["signature"]),
            layout=metadata["layout"],
            split_rule=metadata["split_rule"],
            text_encoder=metadata["text_encoder"],
            statistics=Statistics.from_json(metadata["statistics"]),
            skipped=tuple(DataError(**error) for error in metadata["skipped"]),
            hashes={
                split: {"ids": known["ids_hash"], "content": known["content_hash"]}
                for split, known in metadata["splits"].items()
            },
            _builder=builder,
            _splits=metadata["splits"],
        )
    except Exception as error:  # JSON, protocol buffers and our own fields, all of them damaged
        raise _damaged(f"its description cannot be read ({error})", path) from error


def _build(
    source: str | Path | SimulatorConfig, corpus: Corpus, root: Path, config: str, **options: Any
) -> Path:
    import tensorflow_datasets as tfds

    import emojax.data.builders  # noqa: F401  registers the builders

    name = f"emojax_{corpus.signature.name}"
    for leftover in (root / name / config).glob("incomplete.*"):
        shutil.rmtree(leftover)
    with _quiet_tfds():
        # Not `tfds.builder`, which turns every error of the constructor into a RuntimeError.
        make = tfds.builder_cls(name)
        builder = make(source=source, corpus=corpus, data_dir=root, **options)
    title = f"Preparing {corpus.layout}"
    with progress(title, builder.conversations) as builder.on_examples, _quiet_tfds():
        builder.download_and_prepare()
    return Path(builder.data_dir)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """TFDS prints about downloads, of which there are none, and would spoil output as JSON."""
    import tensorflow_datasets as tfds
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Keeps processes from preparing side by side; the system frees the lock of a killed one."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / ".prepare.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _unwritable_is_clear(root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # array_record raises the latter
        raise DataError(
            f"cannot write the prepared corpus ({error})",
            file=root,
            fix="Free some space or choose another data folder; nothing half-written is kept",
        ) from error


def _damaged(problem: str, file: Path, conversation: str | None = None) -> DataError:
    return DataError(problem, file=file, conversation=conversation, fix=_AGAIN)
