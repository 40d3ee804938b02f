"""Readers: one file a layout, from what users have on disk to a `Corpus`.

The layout is recognised from content (the length of a pickled tuple and the types in it, the
tables of a folder), never from a file's name.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from emojax.data.readers import featurized, iemocap, meld, meld_text, mosi, safe_pickle
from emojax.data.readers.corpus import SPLITS, Corpus, natural_key
from emojax.errors import DataError

if TYPE_CHECKING:
    from emojax.data.simulator import SimulatorConfig

SIMULATED = "simulated"
"""Stands for the embedded corpus where a path is expected; a file of that name is ./simulated."""

_PICKLES = (iemocap, meld)
_FOLDERS = (meld_text, mosi, featurized)
_KNOWN = "Known layouts: " + ", ".join(
    [layout.title for module in _PICKLES for layout in module.LAYOUTS]
    + [module.TITLE for module in _FOLDERS]
)

__all__ = ["SIMULATED", "SPLITS", "Corpus", "fingerprint", "natural_key", "read_corpus"]


def read_corpus(source: str | Path | SimulatorConfig, *, skip_bad: bool = False) -> Corpus:
    """Recognises, reads and checks a corpus.

    Args:
      source: a feature pickle, a folder of CSV files, "simulated" for the embedded corpus in its
        default size, or a simulator's config.
      skip_bad: set bad conversations aside in `Corpus.skipped` instead of raising. What is wrong
        with a file as a whole is raised all the same.

    Raises:
      DataError: missing, unreadable, of an unknown layout, or with a bad conversation.
    """
    if not isinstance(source, Path) and (not isinstance(source, str) or source == SIMULATED):
        from emojax.data.readers import simulated

        return simulated.read(None if isinstance(source, str) else source)
    path = _existing(source)
    if path.is_dir():
        return _folder_reader(path).read(path, skip_bad=skip_bad)
    _refuse_json(path)
    content = safe_pickle.load(path)
    for module in _PICKLES:
        corpus = module.read(content, path, skip_bad=skip_bad)
        if corpus is not None:
            return corpus
    raise DataError(f"a pickle of an unknown layout ({_describe(content)})", file=path, fix=_KNOWN)


def _refuse_json(path: Path) -> None:
    """A brace begins no pickle, but every file of JSON lines that `emojax predict` takes."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
    except OSError:
        return  # whoever reads it says why it cannot
    if start.startswith(b"{"):
        raise DataError(
            "JSON lines hold conversations to predict (`emojax predict RUN FILE`); they have no "
            "splits to train on", file=path, fix=_KNOWN,
        )  # fmt: skip


def fingerprint(source: str | Path | SimulatorConfig) -> str:
    """sha256 of everything the corpus is made from: its files, or the simulator and its config.

    Raises:
      DataError: missing, unreadable, or a folder of an unknown layout.
    """
    if not isinstance(source, Path) and (not isinstance(source, str) or source == SIMULATED):
        from emojax.data.readers import simulated

        return simulated.fingerprint(None if isinstance(source, str) else source)
    path = _existing(source)
    if path.is_dir():
        reader = _folder_reader(path)
        names = reader.FILES.values() if isinstance(reader.FILES, dict) else reader.FILES
        files = {name: path / name for name in sorted(names) if (path / name).is_file()}
    else:
        files = {"": path}
    digest = hashlib.sha256()
    try:
        for name, file in files.items():
            digest.update(name.encode() + b"\0")
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    return digest.hexdigest()


def _existing(source: str | Path) -> Path:
    path = Path(source)
    if not path.exists():
        raise DataError("there is no such file or folder", file=path)
    return path


def _folder_reader(path: Path):
    for module in _FOLDERS:
        if module.matches(path):
            return module
    raise DataError("a folder of an unknown layout", file=path, fix=_KNOWN)


def _describe(content: object) -> str:
    if not isinstance(content, list | tuple):
        return type(content).__name__
    keys = {
        type(key).__name__ for item in content if isinstance(item, dict) for key in list(item)[:1]
    }
    text = f"a {type(content).__name__} of {len(content)} items"
    return f"{text}, keyed by {' and '.join(sorted(keys))}" if keys else text
