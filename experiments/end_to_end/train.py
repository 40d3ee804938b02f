"""One variant's training: seed by seed the same programs, epochs chosen on validation."""

from __future__ import annotations

import hashlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from emojax.config import Config, digest, from_dict, override
from emojax.data.pipeline import Batches
from emojax.data.statistics import fit_statistics
from emojax.errors import NonFiniteError
from emojax.evaluate.metrics import score
from emojax.evaluate.predict import make_predict, predict_split
from emojax.models.registry import build
from emojax.nn.layers import identity_statistics
from emojax.nn.layers import statistics as collection
from emojax.train.halting import NEVER
from emojax.train.optimiser import build_optimiser, build_schedule
from emojax.train.step import make_initial_state, make_train_step
from emojax.types import MODALITIES, Prediction, Signature
from experiments.end_to_end.corpus import Recordings, Splits
from experiments.end_to_end.network import Shapes, Sizes, network
from experiments.store import METRICS, Result, commit, dialogues

REFERENCE = "trimodal, end to end"
NAMES = {"text": "text", "audio": "sound", "visual": "pictures"}


class Variant(NamedTuple):
    """Attributes: whether encoders are trained, and the modalities that are not hidden."""

    trained: bool
    modalities: tuple[str, ...]


VARIANTS = {
    REFERENCE: Variant(True, MODALITIES),
    **{f"{NAMES[m]}, end to end": Variant(True, (m,)) for m in MODALITIES},
    "trimodal, pooled features": Variant(False, MODALITIES),
}
SETTINGS = (
    "model.width=32", "model.encoder_layers=0", "model.delta=false", "model.text_guidance=false",
    "model.graph_layers=1", "data.buckets=[24]", "data.batch_utterances=72", "train.epochs=12",
    "train.learning_rate=3e-3", "train.auxiliary_weight=0.3",
)  # fmt: skip
"""Of the fusion model and of its training, in every variant but for `SLOW`."""
SLOW = {("audio",): ("train.epochs=36",), ("visual",): ("train.epochs=36",)}
"""What else is set by the modalities: with 12 epochs, validation scores of these still rose."""
RECORDINGS, SIZES = Recordings(), Sizes()


def config_of(variant: Variant, seed: int, settings: tuple[str, ...] = SETTINGS) -> Config:
    settings += SLOW.get(variant.modalities, ())
    shown = ", ".join(f'"{m}"' for m in variant.modalities)
    return from_dict(
        override({}, [*settings, f"model.modalities=[{shown}]", f"train.seed={seed}"])
    )  # fmt: skip


class Trainer:
    """Trains seeds of one variant; what is compiled for the first serves all.

    Args:
      config: `train.seed` does not matter.
      shapes: of raw signals; None if features are what the fusion model reads.
    """

    def __init__(
        self, config: Config, splits: Splits, signature: Signature, shapes: Shapes | None,
        sizes: Sizes,
    ):  # fmt: skip
        self.config, self.signature = config, signature
        widths = signature.widths
        lengths = {s: np.array([len(c) for c in each], np.int32) for s, each in splits.items()}
        self.batches = {
            s: Batches(each, lengths[s], widths, config.data) for s, each in splits.items()
        }
        if shapes is None:
            self.model: Any = build(config.model, signature)
            fitted = fit_statistics(splits["train"], widths, len(signature.labels))
            self.statistics: Any = collection(fitted.mean, fitted.deviation)
        else:
            self.model = network(config.model, signature, shapes, sizes)
            self.statistics = {"fusion": identity_statistics(self.model.fusion.signature.widths)}
        plan = self.batches["train"].reseeded(0).plan
        steps = [len(plan(epoch)) for epoch in range(config.train.epochs)]
        schedule = build_schedule(config.train, steps)
        optimiser = build_optimiser(config.train, schedule)
        self.initial = make_initial_state(self.model, optimiser, config.train)
        self.step = make_train_step(self.model, optimiser, config.train, schedule, None)
        self.predict = make_predict(self.model, explain=False)

    def fit(self, seed: int) -> tuple[Any, list[dict[str, Any]]]:
        """Variables of the epoch with the best validation score, and every epoch's scores.

        Raises:
          NonFiniteError: a loss or a gradient is not finite.
        """
        order = self.batches["train"].reseeded(seed)
        first = next(order.one_epoch()).batch
        state = self.initial(jax.random.key(seed), first, self.statistics)
        history: list[dict[str, Any]] = []
        best, most = None, -np.inf
        for packed in order.prefetched():
            state, metrics = self.step(state, packed.batch)
            if not packed.last:
                continue
            # The host waits for the device here and nowhere else.
            if int(metrics["halted"]) != NEVER:
                raise NonFiniteError(
                    f"seed {seed}: loss or gradient of step {int(metrics['halted'])} is not finite"
                )
            found = self.scores(state.variables(), "validation")
            history.append({"epoch": packed.epoch + 1, "validation": found})
            if found[self.config.train.select] > most:
                most = found[self.config.train.select]
                # A copy, as the next step takes the state's memory.
                best = jax.tree.map(jnp.copy, state.variables())
            if packed.epoch + 1 == self.config.train.epochs:
                break
        return best, history

    def predictions(self, variables: Any, split: str) -> list[Prediction]:
        return predict_split(self.predict, variables, self.batches[split])

    def scores(self, variables: Any, split: str) -> dict[str, float]:
        return scores_of(self.predictions(variables, split), len(self.signature.labels))

    def result(self, variant: str, seed: int, identity: str, corpus: str) -> Result:
        """Train a seed, then look at the test split once."""
        began = time.monotonic()
        variables, history = self.fit(seed)
        seconds = time.monotonic() - began
        test = self.predictions(variables, "test")
        chosen = max(history, key=lambda each: each["validation"][self.config.train.select])
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        scores = {
            "validation": chosen["validation"],
            "test": scores_of(test, len(self.signature.labels)),
        }
        return Result(
            variant=variant, seed=seed, config=identity, corpus=corpus, commit=commit(),
            scores=scores, seconds=round(seconds, 1), parameters=count, history=history,
            **dialogues(test),
        )  # fmt: skip


def scores_of(predictions: list[Prediction], classes: int) -> dict[str, float]:
    found = score(predictions, classes)
    return {metric: round(float(getattr(found, metric)), 6) for metric in METRICS}


def identity(variant: Variant, seed: int) -> str:
    """What a result is found by: everything that it depends on but the code."""
    sizes = SIZES if variant.trained else None
    told = (digest(config_of(variant, seed)), RECORDINGS.digest, sizes)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def fingerprint(splits: Splits) -> str:
    """Of the test split's labels and length, which all variants share."""
    content = [(each.id, each.label.tolist()) for each in splits["test"]]
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]
