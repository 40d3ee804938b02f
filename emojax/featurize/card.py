"""What a corpus made by `emojax featurize` is made of, counted and hashed.

`card.json` for programs and `card.md` for people; `set_aside.csv` lists every clip that was set
aside, and why. The same recordings, manifest, settings and versions give the same bytes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emojax.data.prepare import PreparedCorpus
from emojax.data.readers import featurized
from emojax.data.text_encoder import TextEncoder
from emojax.featurize.manifest import Manifest
from emojax.files import write_atomically

SET_ASIDE = "set_aside.csv"
_MEDIA = ("audio", "visual")
_COLUMNS = (
    "dialogue", "utterance", "media", "start", "end", "modality", "reason", "utterance_kept"
)  # fmt: skip


def write(
    out: Path, manifest: Manifest, hashes: Mapping[str, str], found: Sequence[Mapping[str, Any]],
    recipe: Mapping[str, Any], encoder: TextEncoder | None, corpus: PreparedCorpus | None,
) -> dict[str, Any]:  # fmt: skip
    """Writes the three files; returns the card.

    Args:
      hashes: sha256 of each recording.
      found: what was measured, of each utterance.
      corpus: prepared of it, if it could be.
    """
    kept = [
        bool(each.text) or any(values[name] is not None for name in _MEDIA)
        for each, values in zip(manifest.utterances, found, strict=True)
    ]
    write_atomically(out / SET_ASIDE, _set_aside(manifest, found, kept))
    card = {
        "format": "emojax corpus card 1",
        "manifest": {"name": manifest.path.name, "sha256": _sha256(manifest.path)},
        "media": dict(hashes),
        "recipe": dict(recipe),
        "text": _text(encoder),
        "utterances": len(manifest.utterances),
        "left_out": kept.count(False),
        "set_aside": {
            name: _counted([v["aside"][name] for v in found if name in v["aside"]])
            for name in _MEDIA
        },
        "without_track": {name: sum(name in v["absent"] for v in found) for name in _MEDIA},
        "present": {name: sum(v[name] is not None for v in found) for name in _MEDIA}
        | {"text": sum(bool(each.text) for each in manifest.utterances)},
        "faces": _faces(found),
        "lags": _lags(manifest, found),
        "files": {
            name: _sha256(out / name) for name in (featurized.FILE, SET_ASIDE)
        },
        "splits": None if corpus is None else _splits(corpus),
    }  # fmt: skip
    write_atomically(out / "card.json", json.dumps(card, indent=1) + "\n")
    write_atomically(out / "card.md", _page(card))
    return card


def _set_aside(manifest: Manifest, found: Sequence[Mapping[str, Any]], kept: Sequence[bool]) -> str:
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for each, values, keep in zip(manifest.utterances, found, kept, strict=True):
        for modality, reason in values["aside"].items():
            end = "" if each.end is None else each.end
            writer.writerow(
                [each.dialogue, each.number, each.media, each.start, end, modality, reason,
                 "yes" if keep else "no"]
            )  # fmt: skip
    return table.getvalue()


def _counted(reasons: Sequence[str]) -> dict[str, int]:
    return dict(sorted(Counter(map(_kind, reasons)).items()))


def _kind(reason: str) -> str:
    """What a reason begins with, its numbers left out."""
    if reason.startswith("no face"):
        return "no face"
    return reason.partition(":")[0].partition(" or ")[0]


def _text(encoder: TextEncoder | None) -> dict[str, str]:
    if encoder is None:
        return {"name": "hashed words and word pairs, a stand-in for an encoder"}
    return {"name": encoder.name, "sha256": encoder.fingerprint}


def _faces(found: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Of utterances with video: pictures, those with a face, those the chosen face is in."""
    seen = [values["faces"] for values in found if values["faces"]]
    return {
        "utterances": len(seen),
        "utterances_without_face": sum(not each["tracks"] for each in seen),
        "utterances_with_several": sum(each["tracks"] > 1 for each in seen),
        "pictures": sum(each["pictures"] for each in seen),
        "pictures_with_face": sum(each["with"] for each in seen),
        "pictures_of_the_chosen": sum(each["chosen"] for each in seen),
    }


def _lags(manifest: Manifest, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each recording whose pictures were taken later than its sound, by how many seconds."""
    each = zip(manifest.utterances, found, strict=True)
    return {utterance.media: values["lag"] for utterance, values in each if values["lag"]}


def _splits(corpus: PreparedCorpus) -> dict[str, Any]:
    records = sorted(corpus.path.glob("*.array_record*"))
    return {
        "rule": corpus.split_rule,
        "hashes": {split: dict(known) for split, known in corpus.hashes.items()},
        "conversations": {split: len(corpus.ids(split)) for split in corpus.hashes},
        "records": {path.name: _sha256(path) for path in records},
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lines(card: Mapping[str, Any]) -> list[str]:
    """What there is to say at the end."""
    total, seen = card["utterances"], card["faces"]
    said = [f"{total} utterances, {card['left_out']} left out as nothing of them could be read"]
    for name, count in card["present"].items():
        said.append(f"  with {name}: {count} of {total}")
    for name, counts in card["set_aside"].items():
        if counts:
            each = ", ".join(f"{count} {kind}" for kind, count in counts.items())
            said.append(f"  {name} set aside: {each}")
    for name, count in card["without_track"].items():
        if count:
            said.append(
                f"  {count} in recordings without {'sound' if name == 'audio' else 'video'}"
            )
    if seen["utterances"]:
        said.append(
            f"  faces: in {seen['pictures_with_face']} of {seen['pictures']} pictures; several in "
            f"{seen['utterances_with_several']} utterances, the one that covers most was taken"
        )
    if lags := card["lags"]:
        said.append(
            f"  pictures of {len(lags)} of {len(card['media'])} recordings were taken "
            f"{min(lags.values()):+.2f} to {max(lags.values()):+.2f} s later than their sound"
        )
    if 2 * seen["utterances_without_face"] > seen["utterances"]:
        said.append("  Most videos show no face that was found: if they are crops, --faces whole")
    return said


def _page(card: Mapping[str, Any]) -> str:
    recipe = card["recipe"]
    vision = recipe["settings"].get("vision")
    face = f"{vision['name']}, sha256 {vision['sha256']}" if vision else "plain measures, untrained"
    frames = recipe["settings"].get("frames")
    sound = "means, deviations and percentiles"
    if frames:
        sound, face = f"means in {frames} frames", f"{face}; means in {frames} frames"
    parts = [
        "# Corpus card",
        f"Made by `emojax featurize` from `{card['manifest']['name']}` "
        f"(sha256 {card['manifest']['sha256']}).",
        "\n".join(f"- {line.strip()}" for line in lines(card)),
        f"Text: {card['text']['name']}. Sound: {sound} of log-mel and prosody. Faces: {face}.",
        "| Setting | Value |\n|---|---|\n"
        + "\n".join(
            f"| {name} | {json.dumps(value)} |" for name, value in recipe["settings"].items()
        ),
        "| Package | Version |\n|---|---|\n"
        + "\n".join(f"| {name} | {value} |" for name, value in recipe["versions"].items()),
        "| File | sha256 |\n|---|---|\n"
        + "\n".join(f"| {name} | {value} |" for name, value in card["files"].items()),
    ]
    if card["splits"]:
        rows = [
            f"| {split} | {card['splits']['conversations'][split]} | {known['ids']} | "
            f"{known['content']} |"
            for split, known in card["splits"]["hashes"].items()
        ]
        parts.append(
            "| Split | Conversations | sha256 of ids | of content |\n|---|---|---|---|\n"
            + "\n".join(rows)
        )
    else:
        parts.append("Too few dialogues to make three splits of them; they can be predicted.")
    return "\n\n".join(parts) + "\n"
