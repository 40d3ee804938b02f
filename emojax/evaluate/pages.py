"""What `report.json` holds, set out for people: as Markdown, and as one HTML page.

The page stands alone and runs no script. Transcripts and names of speakers, labels and
conversations come from strangers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from emojax.evaluate.markup import (
    Cell,
    Table,
    embedded,
    escape,
    markdown_list,
    markdown_table,
    short,
    templates,
)

SCALARS = {
    "accuracy": "Accuracy, %",
    "weighted_f1": "Weighted F1, %",
    "macro_f1": "Macro F1, %",
    "nll": "NLL, nats",
    "ece": "ECE, %",
    "brier": "Brier score",
}
PER_CLASS = {"precision": "Precision", "recall": "Recall", "f1": "F1"}

RETRIEVAL = "Shared space"

PICTURES = {
    "confusion_matrix": "Confusion matrix",
    "reliability_diagram": "Reliability diagram",
    "learning_curves": "Learning curves",
    "conversation": "One conversation",
}


def markdown(content: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The report as Markdown; `pictures` are paths by the names of `PICTURES`."""
    parts = [f"# {escape(content['name'])}", f"**{escape(headline(content))}**"]
    if content["reference"]:
        parts.append(escape(reference(content["reference"])))
    parts += ["## Scores", markdown_table(score_table(content))]
    parts += [f"## Classes ({main_split(content)}), %", markdown_table(class_table(content))]
    if content["retrieval"]:
        parts += [f"## {RETRIEVAL}", markdown_table(retrieval_table(content))]
        parts.append(escape(retrieval(content)))
    for name, title in PICTURES.items():
        if name in pictures:
            parts.append(f"## {title}")
            if name == "conversation":
                parts.append(escape(conversation(content)))
            parts.append(f"![{title}]({pictures[name]})")
    parts += ["## How this was measured", markdown_list(protocol(content))]
    if content["skipped"]["count"]:
        parts += [
            f"## Set aside: {content['skipped']['count']}",
            markdown_list(content["skipped"]["items"]),
        ]
    parts += ["## Where it comes from", markdown_table(provenance_table(content))]
    if "config" in content["provenance"]:
        parts.append("The whole configuration is in `report.json` under `provenance.config`.")
    return "\n\n".join(parts) + "\n"


def html(
    content: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    utterances: Sequence[Mapping[str, Any]],
) -> str:
    """The report as a page; `pictures` are SVG by the names of `PICTURES`.

    Args:
      utterances: of the conversation shown, as `export.utterances` gives them.
    """
    config = content["provenance"].get("config")
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            content=content,
            split=main_split(content),
            headline=headline(content),
            reference=reference(content["reference"]) if content["reference"] else None,
            scores=score_table(content),
            classes=class_table(content),
            shared_space=RETRIEVAL,
            retrieval=retrieval_table(content) if content["retrieval"] else None,
            retrieval_note=retrieval(content) if content["retrieval"] else None,
            titles=PICTURES,
            pictures={name: embedded(svg) for name, svg in pictures.items()},
            conversation=conversation(content),
            utterances=utterances,
            protocol=protocol(content),
            provenance=provenance_table(content),
            config=json.dumps(config, indent=2, ensure_ascii=False) if config else None,
        )
    )


def main_split(content: Mapping[str, Any]) -> str:
    return next(iter(content["splits"]))


def headline(content: Mapping[str, Any]) -> str:
    name = main_split(content)
    split = content["splits"][name]
    parts = []
    for key, title in (("weighted_f1", "weighted F1"), ("accuracy", "accuracy")):
        cell = _cell(split[key], key)
        parts.append(f"{title} {cell.text} %" + (f" ({cell.interval})" if cell.interval else ""))
    return (
        f"{name.capitalize()}: {', '.join(parts)}, "
        f"{split['utterances']} utterances of {split['dialogues']} dialogues"
    )


def reference(known: Mapping[str, Any]) -> str:
    """How much of the possible was reached; says only what is known."""
    parts = [str(known["text"])] if known.get("text") else []
    if known.get("bayes_accuracy") is not None and known.get("majority_accuracy") is not None:
        parts.append(
            f"The best possible accuracy (Bayes) is {_number(known['bayes_accuracy'])} %, "
            f"a majority guess gives {_number(known['majority_accuracy'])} %."
        )
    if known.get("reached") is not None:
        parts.append(f"The model went {_number(known['reached'])} % of the way between the two.")
    if found := known.get("contradiction"):
        parts.append(
            f"Of {found['utterances']} utterances with words {found['positives']} use another "
            "emotion's words (sarcasm). Contradiction tells these from the rest with a ROC-AUC of "
            f"{found['roc_auc']:.3f}; the exact posterior has {found['bayes_roc_auc']:.3f}, "
            "chance 0.5."
        )
    return " ".join(parts)


def score_table(content: Mapping[str, Any]) -> Table:
    """A row per measure; a column per split, and one for its majority baseline."""
    header = ["Measure"]
    for name, split in content["splits"].items():
        header.append(name.capitalize())
        if split["majority"]:
            header.append(f"Always “{split['majority']['label']}” ({name})")
    rows = []
    for key, title in SCALARS.items():
        row = [Cell(title)]
        for split in content["splits"].values():
            row.append(_cell(split[key], key))
            if split["majority"]:
                row.append(Cell(_number(split["majority"].get(key), key)))
        rows.append(row)
    for key in ("utterances", "dialogues"):
        row = [Cell(f"Scored {key}")]
        for split in content["splits"].values():
            row += [Cell(str(split[key]))] * (2 if split["majority"] else 1)
        rows.append(row)
    return Table(header, rows)


def class_table(content: Mapping[str, Any]) -> Table:
    split = content["splits"][main_split(content)]
    rows = [
        [Cell(entry["label"])]
        + [_cell(entry[key], key) for key in PER_CLASS]
        + [Cell(str(entry["support"]))]
        for entry in split["classes"]
    ]
    return Table(["Label", *PER_CLASS.values(), "Utterances"], rows)


def retrieval_table(content: Mapping[str, Any]) -> Table:
    """How often a modality of an utterance finds another one of the same."""
    pairs = content["retrieval"]
    ks = list(pairs[0]["recall"])
    nearest = ks[-1]
    rows = []
    for pair in pairs:
        alike, guess = pair["same_label"], pair["same_label_chance"]
        rows.append(
            [
                Cell(f"{pair['query']} finds {pair['answer']}"),
                *(
                    Cell(_number(pair["recall"][k]), f"chance {100 * pair['chance'][k]:.2g}")
                    for k in ks
                ),
                Cell("–") if alike is None else Cell(
                    _number(alike[nearest]), f"chance {_number(guess)}"
                ),
                Cell(str(pair["utterances"])),
            ]
        )  # fmt: skip
    recalls = [f"Recall@{k}, %" for k in ks]
    return Table(["", *recalls, f"Same label among {nearest}, %", "Utterances"], rows)


def retrieval(content: Mapping[str, Any]) -> str:
    return (
        f"Of the {main_split(content)} utterances that have both modalities, how often the answer "
        "that belongs to a query is among the k nearest to it, out of all of them; and how many of "
        "the nearest others have the query's label."
    )


def conversation(content: Mapping[str, Any]) -> str:
    shown = content["conversation"]
    return (
        f"Conversation {shown['id']} of the {shown['split']} split, picked by rule: of median "
        "accuracy among the conversations of at least eight utterances with at least one mistake, "
        "as far as there are such."
    )


def protocol(content: Mapping[str, Any]) -> list[str]:
    """Sentences that say how the scores came about."""
    selection, drawn = content["protocol"]["selection"], content["protocol"]["intervals"]
    chosen = [
        f"{key} {short(selection[key])}"
        for key in ("metric", "epoch", "step", "value")
        if selection.get(key) is not None
    ]
    reads = content["provenance"].get("test_reads") or 1
    if content["provenance"].get("config", {}).get("train", {}).get("watch_test"):
        test = (
            "The test split was scored after every epoch of training too (train.watch_test), "
            f"{reads} readings in all. That selected nothing, but who saw it may choose by it."
        )
    elif not content["protocol"]["test_read"]:
        test = "The test split was not read; all scores are of the validation split."
    elif reads == 1:
        test = "The test split was read once, after the model was selected on validation."
    else:
        test = (
            f"This is reading number {reads} of the test split. Each followed selection on "
            "validation, but scores that were seen before can guide what is tried next."
        )
    return [
        f"Selection: {selection.get('rule') or 'no rule was recorded'}"
        + (f" ({', '.join(chosen)})" if chosen else ""),
        test,
        "Validation scores are of the epoch that looked best on validation, and flatter it.",
        f"The ranges beside scores are {drawn['level']:.0%} percentile intervals over dialogues "
        f"({drawn['resamples']} resamples, seed {drawn['seed']}): they cover the choice of "
        "dialogues, not that of the training seed. There are none for a single dialogue.",
        "Unlabelled utterances are predicted, never scored. Macro F1 is the mean over all labels; "
        "a label that never occurs and is never predicted counts as 0.",
        f"ECE is over {content['protocol']['calibration_bins']} equal-width bins of confidence. "
        "It is biased upwards in small samples and more so in resamples, so its interval may lie "
        "above its value.",
        *_batch_mates(content["protocol"]["batch_mates"]),
        *_future(content["protocol"]["future"]),
        f"Conversations set aside before training: {content['skipped']['count']}.",
    ]


def _batch_mates(found: Mapping[str, Any] | None) -> list[str]:
    """What was measured of a model's dependence on its batch, as a sentence."""
    if found is None:
        return []
    measured = (
        f"by at most {found['largest']:.1e} when nothing else is in the batch "
        f"({found['conversations']} conversations measured)"
    )
    if found["invariant"]:
        return [f"Batch mates do not matter: probabilities of a conversation change {measured}."]
    return [
        f"BATCH MATES MATTER: probabilities of a conversation change {measured}. These scores "
        "depend on how conversations happened to be batched."
    ]


def _future(found: Mapping[str, Any] | None) -> list[str]:
    """What was measured of a model's dependence on later utterances, as a sentence."""
    if found is None:
        return []
    measured = (
        "when the utterances after them are others or are cut off "
        f"({found['conversations']} conversations measured)"
    )
    if found["seen"]:
        return [
            f"The model sees the future: probabilities change by up to {found['largest']:.1e} "
            f"{measured}. What it says of an utterance is final at the conversation's end."
        ]
    return [
        "The model does not see the future: probabilities change by at most "
        f"{found['largest']:.1e} {measured}."
    ]


def provenance_table(content: Mapping[str, Any]) -> Table:
    entries = content["provenance"].items()
    rows = [
        [Cell(key.replace("_", " ")), Cell(short(value))]
        for key, value in entries
        if key != "config"
    ]
    return Table(["What", "Value"], rows)


def _number(value: float | None, name: str = "") -> str:
    """NLL in nats and the Brier score as they are, everything else in per cent."""
    if value is None:
        return "–"
    return f"{value:.3f}" if name in ("nll", "brier") else f"{100 * value:.1f}"


def _cell(entry: Mapping[str, Any], name: str) -> Cell:
    if entry["low"] is None:
        return Cell(_number(entry["value"], name))
    interval = f"{_number(entry['low'], name)}–{_number(entry['high'], name)}"
    return Cell(_number(entry["value"], name), interval)
