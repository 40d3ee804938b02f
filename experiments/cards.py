"""Audit cards: what is to be known of each variant before its figures are believed.

They are drawn from the store alone.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from emojax.evaluate.invariance import TOLERANCE
from emojax.evaluate.markup import Cell, Table, escape, markdown_table
from experiments.facts import facts
from experiments.published import Figure
from experiments.store import Result

LEAST = 10
"""Seeds that a claim takes."""


class Verdict(NamedTuple):
    """What was measured of a promise: a word and a sentence, and whether it was kept."""

    about: str
    word: str
    text: str
    kept: bool | None


@dataclasses.dataclass(frozen=True)
class Card:
    """What is to be known of a variant.

    Attributes:
      variant, model: names.
      warnings: sentences.
      verdicts: of batch mates and of the future.
      facts: what and value.
      published: figures of papers, or None.
      reliability: decisions ("count"), mean "confidence" and "accuracy" of each bin of the
        confidence on test, all runs together; or None.
      config: of the first run, as JSON; "" where it is not known.
    """

    variant: str
    model: str
    warnings: list[str]
    verdicts: list[Verdict]
    facts: Table
    published: Table | None
    reliability: dict[str, np.ndarray] | None
    config: str


def cards(
    results: Sequence[Result], order: Sequence[str], published: Sequence[Figure]
) -> list[Card]:
    """A card for each variant that has results, in the given order."""
    runs = {name: {r.seed: r for r in results if r.variant == name} for name in order}
    return [_card(name, list(found.values()), published) for name, found in runs.items() if found]


def _card(variant: str, runs: Sequence[Result], published: Sequence[Figure]) -> Card:
    known = [run.audit for run in runs if run.audit]
    config = known[0]["config"] if known else {}
    model = config.get("model", {}).get("name", "unknown")
    figures = [each for each in published if each.model == model]
    dataset = known[0]["dataset"] if known else "an unknown corpus"
    return Card(
        variant=variant, model=model, warnings=_warnings(runs, known),
        verdicts=[_batch_mates(known), _future(known)],
        facts=Table(["What", "Value"], [
            [Cell(what), Cell(value)] for what, value in facts(runs, known).items()
        ]),
        published=_published(figures, dataset) if figures else None,
        reliability=_pooled([each["reliability"] for each in known]) if known else None,
        config=json.dumps(config, indent=1) if config else "",
    )  # fmt: skip


def _warnings(runs: Sequence[Result], known: Sequence[Mapping[str, Any]]) -> list[str]:
    found, seeds = [], _counted(len(runs), "seed")
    if len(runs) < LEAST:
        found.append(f"{seeds}: a claim takes {LEAST}, and differences may be chance.")
    if len(known) < len(runs):
        found.append(f"{len(runs) - len(known)} of {seeds}: not audited.")
    if different := _different([each["config"] for each in known]):
        found.append(f"Runs differ in more than the seed: {', '.join(different)}.")
    reads = max((each["test_reads"] for each in known), default=1)
    if reads > 1:
        found.append(
            f"The test split was read up to {reads} times by a run: what was seen before can guide "
            "what is tried next."
        )
    if any(each["config"]["train"].get("watch_test") for each in known):
        found.append("Training scored the test split after every epoch, which chose none of them.")
    if any(run.commit.endswith("+") for run in runs):
        found.append("The code had changes that are in no commit.")
    return found


def _different(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Settings that are not the same in all runs, the seed aside."""
    each = [
        {f"{section}.{name}": json.dumps(value) for section, fields in config.items()
         for name, value in fields.items()}
        for config in configs
    ]  # fmt: skip
    names = dict.fromkeys(name for settings in each for name in settings)
    values = {name: {settings.get(name) for settings in each} for name in names}
    return [name for name, held in values.items() if len(held) > 1 and name != "train.seed"]


def _batch_mates(known: Sequence[Mapping[str, Any]]) -> Verdict:
    found = [each["batch_mates"] for each in known if each["batch_mates"]]
    if not found:
        return Verdict("Batch mates", "NOT MEASURED", "no batch held two conversations", None)
    kept = all(each["invariant"] for each in found)
    text = (
        f"probabilities of a conversation change by {_largest(found, kept)} when nothing else is "
        f"in its batch, and {TOLERANCE:.0e} would be rounding"
    )
    if not kept:
        text += "; the scores depend on how conversations happened to be batched"
    return Verdict("Batch mates", "PASS" if kept else "FAIL", f"{text} ({_looked_at(found)})", kept)


def _future(known: Sequence[Mapping[str, Any]]) -> Verdict:
    found = [each["future"] for each in known if each["future"]]
    if not found:
        return Verdict("Future", "NOT MEASURED", "no conversation had two utterances", None)
    seen = any(each["seen"] for each in found)
    text = (
        f"probabilities change by {_largest(found, not seen)} when the utterances after them are "
        f"others or are cut off ({_looked_at(found)})"
    )
    return Verdict("Future", "SEEN" if seen else "NOT SEEN", text, None)


def _largest(found: Sequence[Mapping[str, Any]], small: bool) -> str:
    largest = max(each["largest"] for each in found)
    return f"{'at most' if small else 'up to'} {f'{largest:.1e}' if largest else '0'}"


def _looked_at(found: Sequence[Mapping[str, Any]]) -> str:
    count = sum(each["conversations"] for each in found)
    return f"{_counted(count, 'conversation')} of {_counted(len(found), 'run')}"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _published(figures: Sequence[Figure], dataset: str) -> Table:
    header = ["Corpus", "Metric", "Value", "Source", "Features", "Selection", "Comparable"]
    return Table(header, [
        [
            Cell(each.corpus), Cell(each.metric),
            Cell("not confirmed" if each.value is None else f"{each.value:g}"),
            Cell(each.source), Cell(each.features), Cell(each.selection),
            Cell(each.verdict(dataset)),
        ]
        for each in figures
    ])  # fmt: skip


def _pooled(bins: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    count = np.array([each["count"] for each in bins])
    total = count.sum(0)

    def mean(name: str) -> np.ndarray:
        summed = (np.array([each[name] for each in bins]) * count).sum(0)
        return np.divide(summed, total, out=np.zeros(len(total)), where=total > 0)

    return {"count": total, "confidence": mean("confidence"), "accuracy": mean("accuracy")}


UNPUBLISHED = "No figure of a paper is recorded for this model."


def reliability_table(bins: Mapping[str, np.ndarray]) -> Table:
    """The bins that hold an utterance."""
    places = np.flatnonzero(bins["count"])
    edges = np.linspace(0, 100, len(bins["count"]) + 1)
    return Table(["Confidence, %", "Mean confidence, %", "Accuracy, %", "Decisions"], [
        [
            Cell(f"{edges[i]:.1f}–{edges[i + 1]:.1f}"),
            *(Cell(f"{100 * bins[name][i]:.1f}") for name in ("confidence", "accuracy")),
            Cell(f"{bins['count'][i]:,}"),
        ]
        for i in places
    ])  # fmt: skip


def markdown(found: Sequence[Card], title: str) -> str:
    """All cards on one page."""
    parts = [f"# {escape(title)}"]
    for card in found:
        said = [f"- {escape(v.about)}: **{v.word}**, {escape(v.text)}." for v in card.verdicts]
        said += [f"- **WARNING**: {escape(text)}" for text in card.warnings]
        parts += [f"## {escape(card.variant)}", f"Model: {escape(card.model)}", "\n".join(said)]
        parts += [markdown_table(card.facts), "### Published"]
        parts.append(markdown_table(card.published) if card.published else UNPUBLISHED)
        if card.reliability:
            bins = markdown_table(reliability_table(card.reliability))
            parts += ["### Reliability on test, all runs together", bins]
    parts.append("Each run's whole configuration is in `results.jsonl` under `audit.config`.")
    return "\n\n".join(parts) + "\n"
