"""What the embedded corpus allows: the exact ceilings of its test split.

Cost: about 8 s on one CPU core; `--mlp` adds a minute and a half.
Expected (default config): Bayes accuracy 0.859, text alone 0.753, no context 0.776, majority
0.259; the perceptron goes about 0.92 of the way.

    python -m experiments.simulator_ceiling
    python -m experiments.simulator_ceiling --json
    python -m experiments.simulator_ceiling --mlp     # needs scikit-learn, as in the dev extra

`--mlp` also trains an ordinary perceptron on the features of seven neighbouring utterances, as a
check that the ceiling can be approached by learning; `share` is how much of the way from the
majority rate to the Bayes accuracy it goes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from emojax.data.posterior import ceiling, isolated, observing
from emojax.data.simulator import DEFAULT, SimulatorConfig, simulate
from emojax.types import MODALITIES, Conversation
from experiments import command

_REACH = 3


def study(config: SimulatorConfig = DEFAULT) -> dict[str, dict[str, float]]:
    """`ceiling` of the test split under each restriction of what may be observed."""
    corpus = simulate(config)
    train, test = corpus["train"], corpus["test"]
    alone = [utterance for conversation in test for utterance in isolated(conversation)]
    views: dict[str, Sequence[Conversation]] = {"everything": test}
    for modality in MODALITIES:
        views[f"{modality} only"] = [observing(c, modality) for c in test]
    for modality in MODALITIES:
        rest = [other for other in MODALITIES if other != modality]
        views[f"without {modality}"] = [observing(c, *rest) for c in test]
    views["no context"] = alone
    views["text only, no context"] = [observing(c, "text") for c in alone]
    return {name: ceiling(seen, config, train=train) for name, seen in views.items()}


def perceptron(config: SimulatorConfig = DEFAULT) -> dict[str, float]:
    """Test accuracy of a perceptron over a window, stopped on validation, and its seconds."""
    from sklearn.neural_network import MLPClassifier

    corpus = {split: _windows(conversations) for split, conversations in simulate(config).items()}
    began = time.perf_counter()
    network = MLPClassifier((256,), alpha=1e-2, batch_size=256, random_state=0)
    classes = np.arange(len(config.labels))
    best = chosen = 0.0
    for _ in range(15):
        network.partial_fit(*corpus["train"], classes=classes)
        validation = network.score(*corpus["validation"])
        if validation > best:
            best, chosen = validation, network.score(*corpus["test"])
    return {"accuracy": chosen, "validation": best, "seconds": time.perf_counter() - began}


def _windows(conversations: Sequence[Conversation]) -> tuple[np.ndarray, np.ndarray]:
    """Features, presence and same-speaker flags of t-3..t+3 side by side, and the labels."""
    rows = []
    for conversation in conversations:
        length = len(conversation)
        values = [getattr(conversation, modality) for modality in MODALITIES]
        padded = np.pad(np.hstack([*values, conversation.present]), ((_REACH, _REACH), (0, 0)))
        speaker = np.pad(conversation.speaker, _REACH, constant_values=-1)
        window = []
        for shift in range(2 * _REACH + 1):
            there = speaker[shift : shift + length, None]
            same = there == conversation.speaker[:, None]
            near = padded[shift : shift + length]
            window += [near * same, near * (~same & (there >= 0)), same]
        rows.append(np.hstack(window))
    return np.vstack(rows), np.concatenate([conversation.label for conversation in conversations])


def main() -> None:
    parser = command.parser("experiments.simulator_ceiling", __doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--mlp", action="store_true", help="also train a perceptron")
    arguments = parser.parse_args()
    found = study()
    if arguments.mlp:
        learned = perceptron()
        most, least = (found["everything"][k] for k in ("bayes_accuracy", "majority_accuracy"))
        learned["share"] = (learned["accuracy"] - least) / (most - least)
        found["perceptron"] = learned
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    columns = list(found["everything"])
    heads = [column.replace("_", "\n") for column in columns]
    table = Table("observed", *heads, title="Simulated test split")
    for name, numbers in found.items():
        if name != "perceptron":
            table.add_row(name, *(f"{numbers[column]:.4f}" for column in columns))
    Console().print(table)
    if arguments.mlp:
        print("perceptron:", ", ".join(f"{k} {v:.4f}" for k, v in found["perceptron"].items()))


if __name__ == "__main__":
    main()
