"""What a corpus holds, counted: of a file as it was downloaded, or of a prepared folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emojax.data.prepare import PreparedCorpus, find_prepared, open_prepared
from emojax.data.readers import SPLITS, Corpus, read_corpus
from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature

if TYPE_CHECKING:
    from rich.console import Group

UNLABELLED_NAME = "(unlabelled)"


def inspect(source: str | Path | PreparedCorpus | Corpus) -> dict[str, Any]:
    """Counts of a corpus, as JSON values.

    Args:
      source: a feature pickle, a CSV folder, "simulated", a prepared folder, or a corpus read or
        prepared already. Bad conversations of a source are set aside and listed.

    Returns:
      name, layout, labels, speakers, widths; "splits": for each split its conversations,
      utterances, lengths (minimum, mean, maximum), counts of labels and speakers, and missing
      utterances of each modality; "skipped": one text for each conversation set aside. A prepared
      corpus also has its split_rule, its text_encoder and its path.

    Raises:
      DataError: a file as a whole that cannot be used.
    """
    corpus = source if isinstance(source, Corpus | PreparedCorpus) else _open(source)
    signature = corpus.signature
    summary: dict[str, Any] = {
        "name": signature.name,
        "layout": corpus.layout,
        "labels": list(signature.labels),
        "speakers": list(signature.speakers),
        "widths": dict(zip(MODALITIES, signature.widths, strict=True)),
        "skipped": [str(error) for error in corpus.skipped],
    }
    splits: dict[str, Iterable[Conversation]]
    if isinstance(corpus, PreparedCorpus):
        summary |= {"path": str(corpus.path), "split_rule": corpus.split_rule}
        summary["text_encoder"] = corpus.text_encoder["name"] if corpus.text_encoder else ""
        splits = {split: corpus.split(split) for split in SPLITS}
    else:
        splits = dict(corpus.splits)
    summary["splits"] = {split: _count(found, signature) for split, found in splits.items()}
    return summary


def render(summary: dict[str, Any]) -> Group:
    """The summary as tables for a terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    widths = ", ".join(f"{name} {width}" for name, width in summary["widths"].items())
    heading = [f"{summary['name']}: {summary['layout']}", f"widths: {widths}"]
    if "split_rule" in summary:
        heading.append(f"split rule: {summary['split_rule']}")
    if summary.get("text_encoder"):
        heading.append(f"text features: made by {summary['text_encoder']}")

    splits = summary["splits"]
    table = Table("", *splits)
    for name in ("conversations", "utterances"):
        table.add_row(name, *(str(each[name]) for each in splits.values()))
    lengths = [each["lengths"] for each in splits.values()]
    table.add_row(
        "length", *(f"{each['min']} / {each['mean']:.1f} / {each['max']}" for each in lengths)
    )
    speaking = [sum(count > 0 for count in each["speakers"].values()) for each in splits.values()]
    table.add_row("speakers", *map(str, speaking), end_section=True)
    for name in MODALITIES:
        table.add_row(f"without {name}", *(str(each["missing"][name]) for each in splits.values()))
    table.add_section()
    for name in dict.fromkeys(name for each in splits.values() for name in each["labels"]):
        counts = (each["labels"].get(name, 0) for each in splits.values())
        table.add_row(Text(name), *(str(count) for count in counts))

    parts: list[Any] = [*map(Text, heading), table]
    if skipped := summary["skipped"]:
        parts.append(Text(f"set aside: {len(skipped)} bad conversations", style="bold"))
        parts += [Text(f"  {problem}") for problem in skipped]
    return Group(*parts)


def _open(source: str | Path) -> Corpus | PreparedCorpus:
    path = Path(source)
    if path.is_dir() and ((path / "dataset_info.json").is_file() or find_prepared(path)):
        return open_prepared(path)
    return read_corpus(source, skip_bad=True)


def _count(conversations: Iterable[Conversation], signature: Signature) -> dict[str, Any]:
    lengths: list[int] = []
    labels: Counter[int] = Counter()
    speakers: Counter[int] = Counter()
    missing = np.zeros(len(MODALITIES), int)
    for conversation in conversations:
        lengths.append(len(conversation))
        labels.update(conversation.label.tolist())
        speakers.update(conversation.speaker.tolist())
        missing += (~conversation.present).sum(axis=0)
    if not lengths:
        raise DataError("a split holds no conversation")
    named = {name: labels[index] for index, name in enumerate(signature.labels)}
    if labels[UNLABELLED]:
        named[UNLABELLED_NAME] = labels[UNLABELLED]
    return {
        "conversations": len(lengths),
        "utterances": sum(lengths),
        "lengths": {
            "min": min(lengths),
            "mean": sum(lengths) / len(lengths),
            "max": max(lengths),
        },
        "labels": named,
        "speakers": {name: speakers[index] for index, name in enumerate(signature.speakers)},
        "missing": dict(zip(MODALITIES, missing.tolist(), strict=True)),
    }
