"""Models by name."""

from __future__ import annotations

from typing import Any

import flax.linen as nn

from emojax.config import MODELS, ModelConfig
from emojax.errors import ConfigError
from emojax.models.baselines import pointwise, sequential, transformers
from emojax.models.redifu import Redifu
from emojax.models.redifu_authors import RedifuAuthors
from emojax.models.shared_space import SharedSpace
from emojax.types import Signature

_CLASSES: dict[str, Any] = {
    "redifu": Redifu,
    "redifu_authors": RedifuAuthors,
    "single": pointwise.Single,
    "early_fusion": pointwise.EarlyFusion,
    "late_fusion": pointwise.LateFusion,
    "late_transformer": transformers.LateTransformer,
    "hybrid_fusion": pointwise.HybridFusion,
    "attention_fusion": pointwise.AttentionFusion,
    "bc_lstm": sequential.BcLstm,
    "cnn_rnn": sequential.CnnRnn,
    "tensor_fusion": pointwise.TensorFusion,
    "low_rank_fusion": pointwise.LowRankFusion,
    "mult": transformers.Mult,
    "dialogue_gcn": sequential.DialogueGcn,
    "sdt": transformers.Sdt,
    "shared_space": SharedSpace,
}
assert _CLASSES.keys() == MODELS.keys(), "every model has a config class, and the reverse"


def build(config: ModelConfig, signature: Signature, remat: str = "none") -> nn.Module:
    """The model that `config` describes, for a corpus of that signature.

    The module is a pure function: `model.apply(variables, batch, rngs={"dropout": key})` trains,
    and without `rngs` it is deterministic.

    Args:
      remat: see `TrainConfig`; it changes no result.
    """
    if len(signature.labels) < 2:
        raise ConfigError(f"{signature.name} has {len(signature.labels)} labels; two are needed")
    return _CLASSES[config.name](config, signature, remat)
