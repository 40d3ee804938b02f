"""Models that walk through a conversation."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from emojax.config.baselines import BcLstmConfig, CnnRnnConfig, DialogueGcnConfig
from emojax.models.baselines.frame import Baseline
from emojax.models.output import Output
from emojax.nn.convolution import Convolution
from emojax.nn.layers import Dropout, gelu
from emojax.nn.recurrent import Recurrent
from emojax.nn.speaker_graph import SpeakerGraph
from emojax.types import MODALITIES, Batch


class BcLstm(Baseline):
    """bc-LSTM (Poria et al., ACL 2017): a contextual LSTM for each modality, and one over all.

    Modalities and fusion are trained together here; the published code trains them one after the
    other.
    """

    config: BcLstmConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        drop = Dropout(c.dropout)

        def walk(x: Array, name: str) -> Array:
            lstm = Recurrent("lstm", c.width, c.causal, self.dtype, name=name)
            return drop(lstm(x, batch.segment))

        context = [walk(x, f"{m}_lstm") for m, x in zip(MODALITIES, streams, strict=True)]
        return self.output(walk(jnp.concatenate(context, -1), "lstm"), context)


class CnnRnn(Baseline):
    """Convolutions over neighbouring utterances for each modality, then a GRU over all of them
    (the CNN-RNN hybrids of speech emotion recognition, such as Trigeorgis et al., ICASSP 2016)."""

    config: CnnRnnConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        drop = Dropout(c.dropout)
        local = []
        for modality, x in zip(MODALITIES, streams, strict=True):
            convolution = Convolution(
                c.width, c.taps, c.causal, self.dtype, name=f"{modality}_convolution"
            )
            local.append(drop(gelu(convolution(x, batch.segment))))
        walk = Recurrent("gru", c.width, c.causal, self.dtype, name="gru")
        return self.output(drop(walk(jnp.concatenate(local, -1), batch.segment)), local)


class DialogueGcn(Baseline):
    """DialogueGCN (arXiv:1908.11540): a GRU over the conversation, a graph of speakers and of past
    and future around each utterance, and a decision from both."""

    config: DialogueGcnConfig

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c = self.config
        streams, _ = self.streams(batch)
        walk = Recurrent("gru", c.width, c.causal, self.dtype, name="gru")
        context = Dropout(c.dropout)(walk(jnp.concatenate(streams, -1), batch.segment))
        graph = SpeakerGraph(c.window, c.causal, c.dropout, self.dtype, name="graph")
        found = graph(context, batch.speaker, batch.segment)
        return self.output(jnp.concatenate([context, found], -1), streams)
