"""Do models find the words that do not mean what they say, and how well can it be done at all?

    python -m experiments.contradiction --out runs/contradiction --seeds 10

In the embedded corpus a sarcastic speaker uses the words of another emotion than her own (but for
neutral ones, who have no other words). Which utterances those are is known, and so is the exact
posterior of it given everything observed. A model is told nothing of sarcasm; what it says of an
utterance's words alone and out of context is held against what it decides with everything
(`emojax.evaluate.contradiction`). Scored is the area under the ROC curve, over utterances whose
words are there.

`table.md`: test AUC of each model's output, mean ± sample deviation over seeds, beside the exact
posterior's. `candidates.md`: how the score was chosen, on validation alone, among measures of
distance between the words and the decision, or what is said with the words hidden.

Models train on a thousand conversations (`experiments/simulated_small.toml`) with settings that
were searched for none of them, all seeds as one program, in OUT/runs; a run's scores are kept in
OUT/scores. Started again, the study goes on where it was. Cost: on one core half an hour for
`redifu`, five minutes for `dialogue_gcn`, two for `early_fusion`.

Measured (`experiments/results/simulated/contradiction`): `redifu` .915 ± .004, `dialogue_gcn`
.904 ± .005, `early_fusion` .894 ± .012, the exact posterior .978. The score is the best of all on
validation for each model, level with `1 - Σ p w / max w`, which differs little from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from emojax.config import Config, digest, from_dict, override
from emojax.data.posterior import Words, words
from emojax.data.simulator import DEFAULT, simulate_with_sarcasm
from emojax.data.splits import content_hash
from emojax.errors import DataError
from emojax.evaluate.contradiction import contradiction, roc_auc
from emojax.evaluate.predict import TEXT, make_predict
from emojax.files import write_atomically
from emojax.train.evaluation import best_variables
from emojax.train.reads import count_read
from emojax.train.run import Run, open_run
from experiments import command
from experiments.programs import LANES, programs, start, train
from experiments.sheet import Sheet, spread

BASE = Path(__file__).parent / "simulated_small.toml"
MODELS = ("redifu", "dialogue_gcn", "early_fusion")
SPLITS = ("validation", "test")

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p | q) of each row, nats."""
    return (p * np.log(np.maximum(p, 1e-30) / np.maximum(q, 1e-30))).sum(-1)


def _of_favourite(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """What q gives to the class that p favours."""
    return np.take_along_axis(q, p.argmax(-1)[..., None], -1)[..., 0]


DISTANCES: dict[str, Distance] = {
    "max w - Σ p w": contradiction,
    "1 - Σ p w / max w": lambda w, p: 1 - (w * p).sum(-1) / w.max(-1),
    "1 - Σ p w": lambda w, p: 1 - (w * p).sum(-1),
    "1 - p(argmax w)": lambda w, p: 1 - _of_favourite(w, p),
    "1 - w(argmax p)": lambda w, p: 1 - _of_favourite(p, w),
    "total variation": lambda w, p: abs(w - p).sum(-1) / 2,
    "Jensen-Shannon": lambda w, p: (_divergence(w, (w + p) / 2) + _divergence(p, (w + p) / 2)) / 2,
    "Hellinger": lambda w, p: 1 - np.sqrt(w * p).sum(-1),
    "KL(p | w)": lambda w, p: _divergence(p, w),
    "KL(w | p)": _divergence,
}
"""Between w, what the words say alone, and p."""
OUTPUT = "max w - Σ p w"
"""The one that is the output."""


@dataclasses.dataclass(frozen=True, eq=False)
class Looks:
    """What a model says of a split's U utterances: f64[U, C] from their words alone, from
    everything, and from everything but words."""

    words: np.ndarray
    everything: np.ndarray
    rest: np.ndarray


def main() -> int:
    parser = command.parser("experiments.contradiction", __doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=list(MODELS), metavar="NAME")
    parser.add_argument("--config", type=Path, default=BASE, metavar="FILE", help="of all runs")
    parser.set_defaults(data=None, overrides=[])
    options = parser.parse_args()
    return command.status(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    start(options.out)
    truth = known()
    found: dict[str, list[dict[str, Any]]] = {}
    # The quickest first, so that there is something to look at.
    for model in reversed(options.models):
        configs = configs_of(model, options)
        for names in programs(configs, options.out, LANES):
            train({name: configs[name] for name in names}, options.out, Console())
        found[model] = [scores(options.out, name, truth) for name in configs]
        ordered = {name: found[name] for name in options.models if name in found}
        _write(options.out / "table.md", table(ordered, truth))
        _write(options.out / "candidates.md", candidates(ordered))


def configs_of(model: str, options: argparse.Namespace) -> dict[str, Config]:
    """A run for each seed, by its digest."""
    values, _ = command.settings(options)
    made = [
        from_dict(override(values, [f"model.name={model}", f"train.seed={seed}"]))
        for seed in range(options.seeds)
    ]
    return {digest(config): config for config in made}


def known() -> dict[str, Words]:
    """Of the utterances of each split: which have words, and which of these are foreign."""
    drawn = simulate_with_sarcasm(dataclasses.replace(DEFAULT, train=0))
    return {split: words(drawn[split], DEFAULT) for split in SPLITS}


def scores(out: Path, name: str, truth: dict[str, Words]) -> dict[str, Any]:
    """A run's accuracy, AUC of every candidate on validation and of the output on test.

    Raises:
      DataError: it was trained on another corpus than the embedded one.
    """
    path = out / "scores" / f"{name}.json"
    if not path.exists():
        run = open_run(out / "runs" / name)
        _check(run)
        variables, _ = best_variables(run.folder, run.model, run.corpus.signature)
        validation = looks(run, variables, "validation")
        count_read(run.folder, name)
        test = looks(run, variables, "test")
        content = {
            "model": run.config.model.name, "seed": run.config.train.seed,
            "validation": {
                against: {
                    label: auc(distance(validation.words, other), truth["validation"])
                    for label, distance in DISTANCES.items()
                }
                for against, other in (
                    ("everything", validation.everything), ("everything but words", validation.rest)
                )
            },
            "test": auc(contradiction(test.words, test.everything), truth["test"]),
            "accuracy": accuracy(test.everything, run),
        }  # fmt: skip
        write_atomically(path, json.dumps(content, indent=1) + "\n")
    return json.loads(path.read_text(encoding="utf-8"))


def _check(run: Run) -> None:
    drawn = simulate_with_sarcasm(dataclasses.replace(DEFAULT, train=0, validation=0))["test"]
    if content_hash([c for c, _ in drawn]) != run.corpus.hashes["test"]["content"]:
        raise DataError("is not the embedded corpus", file=run.corpus.path, fix="Leave data.source")


def looks(run: Run, variables: Any, split: str) -> Looks:
    """Of every utterance of a split, in the order of its conversations' names."""
    explain, plain = (make_predict(run.model, explain=more) for more in (True, False))
    found = {}
    for packed in run.batches(split).one_epoch():
        batch = jax.device_put(packed.batch)
        hidden = dataclasses.replace(batch, present=batch.present.at[:, :, TEXT].set(False))
        whole, rest = explain(variables, batch), plain(variables, hidden)
        arrays = jax.device_get((whole.words, whole.log_probability, rest.log_probability))
        for index, row, columns in packed.members():
            found[index] = [np.exp(x[row, columns].astype(np.float64)) for x in arrays]
    ordered = sorted(found, key=lambda index: run.corpus.ids(split)[index])
    return Looks(*(np.concatenate(x) for x in zip(*(found[i] for i in ordered), strict=True)))


def auc(score: np.ndarray, truth: Words) -> float:
    """Of telling foreign words from own ones."""
    return roc_auc(score[truth.heard], truth.foreign[truth.heard])


def accuracy(probability: np.ndarray, run: Run) -> float:
    records = sorted(run.corpus.split("test"), key=lambda conversation: conversation.id)
    label = np.concatenate([conversation.label for conversation in records])
    return float((probability.argmax(-1) == label).mean())


def table(found: dict[str, list[dict[str, Any]]], truth: dict[str, Words]) -> Sheet:
    """Test AUC, and how much of the way from chance to the exact posterior it is."""
    test = truth["test"]
    exact = auc(test.exact, test)
    rows = []
    for model, runs in found.items():
        mine = np.array([run["test"] for run in runs])
        right = [100 * run["accuracy"] for run in runs]
        share = spread(100 * (mine - 0.5) / (exact - 0.5))
        rows.append([model, str(len(runs)), spread(right), spread(mine, 3), share])
    rows.append(["exact posterior", "", "", f"{exact:.3f}", "100"])
    header = ["", "seeds", "accuracy, %", "AUC", "of the way from .5, %"]
    note = (
        f"Test split, {test.heard.sum()} utterances with words, {test.foreign[test.heard].sum()} "
        "of them with another emotion's. Mean ± sample deviation over seeds, of the epochs that "
        "validation chose by weighted F1."
    )
    return Sheet("Words that do not mean what they say", header, rows, note)


def candidates(found: dict[str, list[dict[str, Any]]]) -> Sheet:
    """Validation AUC of every distance."""
    rows = [
        [f"{label}, p from {against}", *(
            spread([run["validation"][against][label] for run in runs], 3)
            for runs in found.values()
        )]
        for against in ("everything", "everything but words")
        for label in DISTANCES
    ]  # fmt: skip
    note = (
        f"w: what the words say alone and out of context. The output is {OUTPUT} with everything. "
        "Mean ± sample deviation over seeds."
    )
    return Sheet("Measures of contradiction: validation AUC", ["", *found], rows, note)


def _write(path: Path, sheet: Sheet) -> None:
    print(sheet.markdown())
    write_atomically(path, sheet.markdown())


if __name__ == "__main__":
    sys.exit(main())
