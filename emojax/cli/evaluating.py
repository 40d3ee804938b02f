"""`emojax evaluate` and `emojax predict`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from emojax.cli.parsing import command


def add(commands: Any) -> None:
    evaluate = command(
        commands, "evaluate", _evaluate, "report how good a trained run is",
        "Takes the epoch that validation chose, then reads the test split and writes report.html,\n"
        "report.md and report.json under RUN/report. Every reading of the test split is counted.",
    )  # fmt: skip
    evaluate.add_argument("run_folder", type=Path, metavar="RUN")
    evaluate.add_argument(
        "--no-test", action="store_true", help="report on validation and leave the test unread"
    )

    predict = command(
        commands, "predict", _predict, "tell the emotions of new conversations",
        "INPUT is a feature file or folder of any known layout, or JSON lines, one conversation\n"
        'each: {"id": "a", "utterances": [{"speaker": "Ann", "text": [...], "audio": [...],\n'
        '"visual": null, "transcript": "Well."}, ...]}. A modality that is null or left out is\n'
        "missing. A model trained with data.text_encoder takes transcripts and no text features.",
    )  # fmt: skip
    predict.add_argument("run_folder", type=Path, metavar="RUN")
    predict.add_argument("input", type=Path, metavar="INPUT")
    predict.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the JSONL and CSV"
    )
    predict.add_argument(
        "--skip-bad", action="store_true",
        help="set bad conversations aside and list them in DIR/skipped.json",
    )  # fmt: skip


def _evaluate(options: argparse.Namespace) -> int:
    from emojax.train.evaluation import evaluate_run

    paths = evaluate_run(options.run_folder, test=not options.no_test).paths
    content = json.loads(paths["json"].read_text(encoding="utf-8"))
    for line in _headline(content):
        print(line)
    print(f"Report: {paths['html']}")
    return 0


def _headline(content: dict[str, Any]) -> list[str]:
    from emojax.evaluate.pages import reference

    split = "test" if "test" in content["splits"] else "validation"
    scores = content["splits"][split]
    lines = [f"{content['name']}, {split} split:"]
    for name in ("accuracy", "weighted_f1", "macro_f1", "nll", "ece"):
        entry = scores[name]
        between = f"  [{entry['low']:.4f}, {entry['high']:.4f}]" if entry["low"] is not None else ""
        lines.append(f"  {name:12s} {entry['value']:.4f}{between}")
    if content["reference"]:
        lines.append(reference(content["reference"]))
    return lines


def _predict(options: argparse.Namespace) -> int:
    from emojax.train.predict import predict_file

    for path in predict_file(
        options.run_folder, options.input, options.out, skip_bad=options.skip_bad
    ):
        print(path)
    return 0
