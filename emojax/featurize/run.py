"""From a manifest to a prepared corpus: every utterance measured once, whatever comes between."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emojax import __version__
from emojax.config.checks import require
from emojax.data.align.lag import METHODS
from emojax.data.prepare import PreparedCorpus, prepare
from emojax.data.progress import progress
from emojax.data.readers import featurized
from emojax.data.text_encoder import TextEncoder, open_text_encoder
from emojax.errors import DataError
from emojax.featurize import card, faces, measures, media
from emojax.featurize.journal import Journal, check_recipe
from emojax.featurize.manifest import Manifest, Utterance, read_manifest
from emojax.featurize.pool import measured
from emojax.featurize.texts import text_features, text_width
from emojax.featurize.worker import Settings, open_encoder, pack
from emojax.files import write_atomically

REVISION = 1
"""Of what features mean; another one makes folders of this one start anew."""
JOURNAL = "journal.jsonl"
_PACKAGES = ("av", "opencv-python-headless", "jax", "jaxlib", "numpy", "scipy")
MOST_FRAMES = 64
"""Of an utterance; at a common rate of pictures more would repeat some."""
_PATIENCE = 900.0
"""Seconds that an utterance may take."""


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What `featurize` leaves.

    Attributes:
      folder: holds utterances.jsonl, set_aside.csv, card.json, card.md and the prepared corpus.
      card: see `emojax.featurize.card`.
      corpus: prepared, or None where there are too few dialogues to make three splits.
      measured: how many utterances this call measured; the others were done before.
    """

    folder: Path
    card: Mapping[str, Any]
    corpus: PreparedCorpus | None
    measured: int


def featurize(
    manifest_path: Path, out: Path, settings: Settings | None = None, *, text_encoder: str = "",
    workers: int | None = None,
) -> Outcome:  # fmt: skip
    """Measures every utterance of a manifest and prepares the corpus; goes on where it was stopped.

    Args:
      manifest_path: see `emojax.featurize.manifest`.
      out: a folder, new or of an earlier call with the same settings and versions. Utterances it
        knows, of recordings that are the same to the bit, are not measured again.
      settings: what shapes features.
      text_encoder: as `data.text_encoder`; "" stands for hashed words and word pairs.
      workers: processes; None is one for each core.

    Raises:
      DataError: a manifest, weights or an encoder that cannot be used; a folder that holds other
        features or cannot be written; or nothing that could be measured.
      ConfigError: impossible settings, or a package that is not installed.
    """
    settings = settings or Settings()
    _check(settings)
    workers = workers or len(os.sched_getaffinity(0))
    require(workers > 0, "workers", f"must be positive, not {workers}")
    media.load_av()
    faces.load_cv()
    manifest = read_manifest(manifest_path)
    encoder = open_text_encoder(text_encoder) if text_encoder else None
    recipe = _recipe(settings)
    with _alone(out), _journal(out, recipe) as journal:
        hashes = _hashes(manifest)
        keys = [_key(each, hashes) for each in manifest.utterances]
        count = _measure(manifest, keys, journal, settings, workers)
        texts = text_features(manifest, encoder, journal)
        found = [journal.done[key] for key in keys]
        content = _content(manifest, keys, found, texts, recipe, encoder)
        write_atomically(out / featurized.FILE, content)
        # What the journal knows stands in the file now.
        journal.path.unlink()
        corpus = _prepare(out)
        summary = card.write(out, manifest, hashes, found, recipe, encoder, corpus)
    return Outcome(out, summary, corpus, count)


def _check(settings: Settings) -> None:
    require(0 < settings.rate <= 120, "fps", f"must be in (0, 120], not {settings.rate}")
    require(
        settings.align in ("", *METHODS), "align",
        f"is {' or '.join(METHODS)}, not {settings.align!r}",
    )  # fmt: skip
    require(
        settings.frames == 0 or 2 <= settings.frames <= MOST_FRAMES, "frames",
        f"are 2 to {MOST_FRAMES}, or 0 to pool over an utterance's time, not {settings.frames}",
    )  # fmt: skip
    require(settings.faces in ("find", "whole"), "faces", f"is find or whole, not {settings.faces}")
    require(
        0 < settings.shortest < settings.longest <= 600, "longest",
        f"must be below 600 s and above {settings.shortest} s, not {settings.longest}",
    )  # fmt: skip


def _recipe(settings: Settings) -> dict[str, Any]:
    """All that decides what features come out of a recording, as JSON values."""
    encoder = open_encoder(settings)
    shape = dataclasses.asdict(settings)
    shape.pop("vision")
    if not settings.frames:
        shape.pop("frames")  # Folders that were made before there were frames go on.
    if encoder is not None:
        shape |= {"vision": {"name": encoder.name, "sha256": encoder.fingerprint},
                  "size": encoder.size}  # fmt: skip
    versions = {"emojax": __version__} | {
        name: importlib.metadata.version(name) for name in _PACKAGES
    }
    return {
        "revision": REVISION,
        "settings": shape,
        "widths": {
            "audio": measures.audio_width(settings.frames),
            "visual": measures.visual_width(encoder, settings.frames),
        },
        "versions": versions,
    }


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Keeps two calls out of one folder; the system frees the lock of a killed one."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("a")
    except OSError as error:
        raise DataError(f"cannot be written: {error.strerror}", file=out) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError("another process is at work here", file=out) from error
        yield


_KEPT = ("audio", "visual", "aside", "absent", "faces", "lag")
"""Of what a worker answers, what the corpus's file holds."""


_DIED = "broken: "


def _journal(out: Path, recipe: Mapping[str, Any]) -> Journal:
    """The folder's journal, which also knows what a finished call has left."""
    path, known = out / featurized.FILE, {}
    if path.exists():
        check_recipe(featurized.header(path).get("recipe"), recipe, path)
        with path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                each = json.loads(line)
                # What a worker died of may have been the machine's fault: it gets another try.
                if not any(reason.startswith(_DIED) for reason in each["aside"].values()):
                    # Lags are not in what was written before they were.
                    known[each["key"]] = {name: ({"lag": 0.0} | each)[name] for name in _KEPT}
    journal = Journal(out / JOURNAL, recipe)
    journal.done = known | journal.done
    return journal


def _hashes(manifest: Manifest) -> dict[str, str]:
    """sha256 of every recording, "" of one that cannot be read."""
    found = {}
    recordings = manifest.media()
    with progress("Reading recordings", len(recordings)) as advance:
        for name, path in recordings.items():
            found[name] = ""
            # A pipe or a device would never end.
            if path.is_file():
                with contextlib.suppress(OSError), path.open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
            advance(1)
    return found


def _key(utterance: Utterance, hashes: Mapping[str, str]) -> str:
    """Of what an utterance's features depend on, beside the recipe."""
    parts = [hashes[utterance.media], utterance.start, utterance.end]
    if not parts[0]:
        parts.append(utterance.media)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _measure(
    manifest: Manifest, keys: list[str], journal: Journal, settings: Settings, workers: int
) -> int:
    """Measures what the journal does not know; returns how many utterances those were."""
    recordings = manifest.media()
    todo: dict[str, Utterance] = {}
    for key, each in zip(keys, manifest.utterances, strict=True):
        known = journal.done.get(key)
        if known is None or known.get("died"):
            todo.setdefault(key, each)
    tasks = [
        {"path": str(recordings[each.media]), "start": each.start, "end": each.end}
        for each in todo.values()
    ]
    names = list(todo)
    with (
        progress("Measuring utterances", len(keys)) as advance,
        contextlib.closing(
            measured(tasks, dataclasses.asdict(settings), workers, _PATIENCE)
        ) as answers,
    ):
        advance(len(keys) - len(tasks))
        for number, answer in answers:
            if "died" in answer:
                reason = f"{_DIED}{answer['died']}"
                answer = dict.fromkeys(_KEPT) | answer | {
                    "aside": {"audio": reason, "visual": reason}, "absent": [], "lag": 0.0,
                }  # fmt: skip
            journal.add(names[number], answer)
            advance(1)
    return len(tasks)


def _content(
    manifest: Manifest, keys: list[str], found: list[dict[str, Any]],
    texts: list[np.ndarray | None], recipe: Mapping[str, Any], encoder: TextEncoder | None,
) -> str:  # fmt: skip
    """The corpus as `emojax.data.readers.featurized` reads it."""
    widths = recipe["widths"]
    header = {
        "format": featurized.FORMAT, "labels": manifest.labels, "speakers": manifest.speakers,
        "widths": [text_width(encoder), widths["audio"], widths["visual"]],
        "frames": [1, *2 * [recipe["settings"].get("frames", 1)]], "recipe": recipe,
        "text_encoder": encoder and {"name": encoder.name, "sha256": encoder.fingerprint},
    }  # fmt: skip
    lines = [json.dumps(header)]
    for each, key, values, text in zip(manifest.utterances, keys, found, texts, strict=True):
        line = {
            "dialogue": each.dialogue, "number": each.number, "speaker": each.speaker,
            "transcript": each.text, "label": each.label, "split": each.split, "key": key,
            "text": None if text is None else pack(text),
        } | {name: values[name] for name in _KEPT}  # fmt: skip
        lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"


def _prepare(out: Path) -> PreparedCorpus | None:
    """The corpus in TFDS's layout, and no older one beside it."""
    corpus = featurized.read(out)
    splits = {split: len(found) for split, found in corpus.splits.items()}
    enough = splits.get("train", 0) > ("validation" not in splits) and "test" in splits
    prepared = prepare(out, out) if enough else None
    for folder in (out / f"emojax_{corpus.signature.name}").glob("*/"):
        if prepared is None or folder != prepared.path.parent:
            shutil.rmtree(folder)
    return prepared
