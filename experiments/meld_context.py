"""MELD's words read in context: frozen features and fine-tuned ones, by models of conversations.

    python -m experiments.meld_context --data ../shared/data/meld --out runs/meld_context \\
        --features runs/meld_text/features-*.npz
    python -m experiments.meld_context --out runs/meld_context --redraw

The second stage behind `experiments.meld_text`. Rows, all of them chosen on validation alone:

  frozen MiniLM, logistic regression     no context; the strength of the penalty is chosen
  frozen MiniLM, MODEL                   the features of `data.text_encoder=minilm`
  fine-tuned MiniLM, MODEL               the first stage's features; the k-th seed on those of the
                                         k-th encoder
  fine-tuned and frozen MiniLM, MODEL    both side by side

`--features` are files that `meld_text` wrote or folders of encoders that `emojax finetune-text`
left. Runs are ordinary ones of `emojax train` under OUT/runs; their settings stand in
`meld_context.toml`. Cost: less than a minute of CPU time a seed, one and a half for the features of
the frozen encoder. Measured: README.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from emojax.config import digest, from_dict, override
from emojax.data.context import Shown
from emojax.data.prepare import PreparedCorpus, prepare
from experiments import command
from experiments.programs import start
from experiments.seeds import reports
from experiments.sheet import Sheet, spread

BASE = Path(__file__).parent / "meld_context.toml"
MODELS = ("redifu",)
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)
"""Inverse strengths C of the logistic regression."""
SPLITS = ("validation", "test")
NOTE = (
    "MELD, text alone, official splits, weighted F1 in %, mean ± sample deviation over seeds. "
    "Everything is chosen on validation."
)

Scores = dict[str, float]


class StoredFeatures:
    """Features that another machine made, in the place of the encoder that made them.

    Args:
      path: `features-SEED.npz` of `experiments.meld_text`.
      beside: a corpus whose text features are to stand beside them.
    """

    def __init__(self, path: Path, beside: PreparedCorpus | None = None):
        self.name = f"{path}+{beside.text_encoder}" if beside else str(path)
        digest = hashlib.sha256(path.read_bytes() + str(beside and beside.hashes).encode())
        self.fingerprint = digest.hexdigest()
        with np.load(path) as file:
            parts = [file[split].astype(np.float32) for split in ("train", *SPLITS)]
        self._features = np.concatenate(parts)
        if beside is not None:
            text = [c.text for split in ("train", *SPLITS) for c in beside.split(split)]
            self._features = np.concatenate([self._features, np.concatenate(text)], axis=1)
        self.width = self._features.shape[1]
        self.config = types.SimpleNamespace(longest=1)
        self._next = 0

    def read(self, transcript: Sequence[str], speakers: Sequence[str]) -> list[Shown]:
        """Numbers of the next utterances with words, which the file has in the corpus's order."""
        spoken = sum(bool(words.strip()) for words in transcript)
        found = [Shown([self._next + i], 0, 1) for i in range(spoken)]
        self._next += spoken
        return found

    def encode(self, pieces: Sequence[Shown], on_texts: Any = lambda count: None) -> np.ndarray:
        if len(pieces) != len(self._features):
            raise ValueError(f"{self.name} is of another corpus")
        return self._features[[shown.ids[0] for shown in pieces]]


def prepared(
    source: str, features: Path | str, data_dir: Path, beside: PreparedCorpus | None = None
) -> PreparedCorpus:
    """MELD with the features of a file, a folder or "minilm"; see `StoredFeatures`."""
    stored = str(features).endswith(".npz")
    encoder: Any = StoredFeatures(Path(features), beside) if stored else str(features)
    return prepare(source, data_dir, text_encoder=encoder)


def logistic_regression(corpus: PreparedCorpus) -> Scores:
    """Weighted F1 of the penalty that validation chooses, features standardised on training."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score

    records = {split: list(corpus.split(split)) for split in ("train", *SPLITS)}
    label = {split: np.concatenate([c.label for c in found]) for split, found in records.items()}
    text = {split: np.concatenate([c.text for c in found]) for split, found in records.items()}
    mean, deviation = text["train"].mean(0), text["train"].std(0) + 1e-6
    text = {split: ((x - mean) / deviation).astype(np.float32) for split, x in text.items()}
    fitted = [LogisticRegression(C=c, max_iter=200, tol=1e-3).fit(text["train"], label["train"])
              for c in PENALTIES]  # fmt: skip

    def weighted_f1(model: Any, split: str) -> float:
        found = model.predict(text[split])
        return float(f1_score(label[split], found, average="weighted", zero_division=0))

    best = max(fitted, key=lambda model: weighted_f1(model, "validation"))
    return {split: weighted_f1(best, split) for split in SPLITS} | {"C": best.C}


def contextual(
    model: str, corpora: Sequence[PreparedCorpus], options: argparse.Namespace, console: Console
) -> list[Scores]:
    """Weighted F1 of a run for each seed, the k-th on the k-th corpus or all on the only one."""
    values, assignments = command.settings(options)
    configs = {}
    for seed in range(options.seeds):
        corpus = corpora[seed % len(corpora)]
        given = [f"model.name={model}", f"data.source={corpus.path}", f"train.seed={seed}"]
        config = from_dict(override(values, [*given, *assignments]))
        configs[digest(config)] = config
    found = reports(configs, options.out, test=not options.validation, console=console)
    splits = ("validation",) if options.validation else SPLITS
    return [{s: report["splits"][s]["weighted_f1"]["value"] for s in splits} for report in found]


def main() -> int:
    parser = command.parser("experiments.meld_context", __doc__)
    command.add_settings(parser, "all runs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--features", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--models", nargs="*", default=list(MODELS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--only",
        default="",
        metavar="FEATURES",
        help="rows of these, the others "
        "staying as they are: frozen, fine-tuned, fine-tuned and frozen",
    )
    parser.add_argument("--validation", action="store_true", help="leave the test split alone")
    parser.add_argument("--redraw", action="store_true", help="the table alone")
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    rows = _known(options.out)
    if not options.redraw:
        start(options.out)
        options.config = options.config or BASE
        source, options.data = options.data, None  # the runs' sources are what is prepared
        console, data_dir = Console(), options.out / "data"
        frozen = prepared(source, "minilm", data_dir)
        if options.only in ("", "frozen"):
            rows["frozen MiniLM, logistic regression"] = [logistic_regression(frozen)]
            _write(options.out, rows)
        features = {
            "frozen": [frozen],
            "fine-tuned": [prepared(source, path, data_dir) for path in options.features],
            "fine-tuned and frozen": [
                prepared(source, path, data_dir, frozen) for path in options.features
            ],
        }
        for model in options.models:
            for name, corpora in features.items():
                if corpora and options.only in ("", name):
                    row = f"{name} MiniLM, {model}"
                    rows[row] = contextual(model, corpora, options, console)
                    _write(options.out, rows)
    table = sheet(rows).markdown()
    (options.out / "table.md").write_text(table, "utf-8")
    print(table)


def _known(out: Path) -> dict[str, list[Scores]]:
    path = out / "rows.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write(out: Path, rows: dict[str, list[Scores]]) -> None:
    (out / "rows.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def sheet(rows: dict[str, list[Scores]]) -> Sheet:
    body = [
        [name, str(len(found)), *(spread([100 * each[s] for each in found]) for s in SPLITS)]
        for name, found in rows.items() if all(s in found[0] for s in SPLITS)
    ]  # fmt: skip
    return Sheet("MELD, text in context", ["", "seeds", *SPLITS], body, NOTE)


if __name__ == "__main__":
    sys.exit(main())
