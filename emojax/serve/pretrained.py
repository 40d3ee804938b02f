"""A trained model that is called with one conversation at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from emojax import __version__
from emojax.config import RedifuAuthorsConfig, digest
from emojax.data.encoded import encode_text
from emojax.data.packing import BatchPlan
from emojax.data.pipeline import collate
from emojax.data.readers import Corpus
from emojax.data.text_encoder import TextEncoder, reopen_text_encoder
from emojax.errors import CheckpointError
from emojax.evaluate.predict import make_predict, prediction_of
from emojax.interop.weights import SUFFIX, Weights, read, write
from emojax.models.registry import build
from emojax.serve.given import conversation_of
from emojax.train.evaluation import best_variables
from emojax.train.predict import embeds_speakers
from emojax.train.run import read_run
from emojax.types import Conversation, Prediction

NAME = f"model{SUFFIX}"
"""What a file of weights is called where a folder is given."""


class Pretrained:
    """A trained model.

    Attributes:
      weights: what it is made of.
      labels: names of the C emotions, in the order of every axis C.
    """

    def __init__(self, weights: Weights):
        self.weights, self.labels = weights, weights.signature.labels
        self._model = weights.build()
        self._variables = jax.device_put(jax.tree.map(np.asarray, dict(weights.variables)))

    def predict(self, conversation: Conversation | Mapping[str, Any]) -> np.ndarray:
        """Probability f32[L, C] of each emotion for each utterance.

        Args:
          conversation: see `given.conversation_of`: {"text": [L, D_text], "audio": ..., "visual":
            ..., "speaker": [...]}, a modality left out or None where it is missing.

        Raises:
          DataError: a field that does not fit.
        """
        return self._look(conversation, explain=False).probability

    def explain(self, conversation: Conversation | Mapping[str, Any]) -> Prediction:
        """The same, with what each modality contributed and how far the words contradict it all.

        Raises:
          DataError: a field that does not fit.
        """
        return self._look(conversation, explain=True)

    @functools.cached_property
    def _encoder(self) -> TextEncoder | None:
        made_by = self.weights.text_encoder
        return reopen_text_encoder(made_by) if made_by else None

    def _read(self, conversation: Conversation | Mapping[str, Any]) -> Conversation:
        signature = self.weights.signature
        given = conversation_of(
            conversation, signature, any_speaker=not embeds_speakers(self.weights.config),
            encodes_text=self._encoder is not None,
        )  # fmt: skip
        if self._encoder is None or not any(words.strip() for words in given.transcript):
            return given
        corpus = Corpus(signature, "given", {"given": (given,)}, (), Path("conversation"))
        return encode_text(corpus, self._encoder).splits["given"][0]

    def _look(self, conversation: Conversation | Mapping[str, Any], *, explain: bool) -> Prediction:
        given = self._read(conversation)
        length = len(given)
        authors = isinstance(self.weights.config, RedifuAuthorsConfig)
        plan = BatchPlan(rounded(length), ((0,),), extent=length if authors else None)
        batch = collate(plan, [given], self.weights.signature.widths)
        found = make_predict(self._model, explain=explain)(self._variables, batch)
        prediction = prediction_of(given, found.at(0, slice(length)))
        return dataclasses.replace(
            prediction, probability=prediction.probability.astype(np.float32)
        )


def rounded(length: int) -> int:
    """Columns of a row for that many utterances: few different ones, each compiled once."""
    step = 16 if length <= 128 else 64
    return -(-length // step) * step


def load(path: Path | str) -> Pretrained:
    """A trained model, from a file of weights, a folder that holds one, or a run.

    Raises:
      CheckpointError: there is no trained model.
      DataError: the file of weights cannot be used.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        if (path / "run.json").exists():
            return Pretrained(weights_of(path))
        if not (path / NAME).exists():
            raise CheckpointError(
                f"{path}: there is no trained model here (neither run.json nor {NAME})"
            )
        path = path / NAME
    return Pretrained(read(path))


from_pretrained = load
"""By the name that others use."""


def save_pretrained(model: Pretrained | Path | str, path: Path | str) -> Path:
    """Write a model, or the selected epoch of a run, as one file of weights.

    Args:
      model: or the folder of a run.
      path: the file, or an existing folder that gets `NAME`.

    Raises:
      CheckpointError: the run has not trained an epoch.
      DataError: the file cannot be written.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / NAME
    return write(path, (model if isinstance(model, Pretrained) else load(model)).weights)


def weights_of(run: Path) -> Weights:
    """Of the epoch that validation chose; the run's corpus is not needed.

    Raises:
      CheckpointError: there is no run, or it has not trained an epoch.
    """
    config, signature, corpus = read_run(run)
    variables, record = best_variables(run, build(config.model, signature), signature)
    origin = {
        "config_hash": digest(config), "corpus": corpus["hashes"],
        "validation": record["validation"], "emojax": __version__,
    }  # fmt: skip
    variables = jax.tree.map(np.asarray, variables)
    return Weights(config.model, signature, variables, corpus.get("text_encoder"), origin)
