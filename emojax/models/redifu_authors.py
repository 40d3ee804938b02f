"""ReDiFu as its authors published it, defects included (arXiv:2603.25752).

This makes results comparable and weights portable; for everything else there is `redifu`. A row is
one conversation, padded at its end to the batch's longest. Predictions depend on that padding:
fusion attends to it and the rolled keys of the differential attention wrap into it. How far it goes
is therefore a value, `batch.extent`, and not the rows' length, which may be longer so that batches
share a shape.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array

from emojax.config import RedifuAuthorsConfig
from emojax.models.output import Output
from emojax.nn.layers import Dropout, LayerNorm, Standardise, rematerialised
from emojax.nn.published.encoder import Encoder
from emojax.nn.published.fusion import Fusion
from emojax.nn.published.graph import RELATION_WIDTH, RelationGAT
from emojax.nn.published.layers import BRANCHES, columns_within, linear
from emojax.nn.sharding import constrain, divided
from emojax.ops.compact import compact, expand
from emojax.ops.masks import OTHER_FUTURE, RELATIONS, SELF, relations, visible
from emojax.ops.target import ANY, target
from emojax.types import MODALITIES, Batch, Signature


class RedifuAuthors(nn.Module):
    """The whole published model."""

    config: RedifuAuthorsConfig
    signature: Signature
    remat: str = "none"

    @nn.compact
    def __call__(self, batch: Batch) -> Output:
        c, branch, dtype = self.config, BRANCHES[self.config.branch], jnp.dtype(self.config.dtype)
        mask = batch.segment > 0
        rows, length = mask.shape
        extent = jnp.full(rows, length) if batch.extent is None else batch.extent
        within = columns_within(extent, length)
        capacity = mask.size if batch.capacity is None else batch.capacity

        x = {}
        for modality in MODALITIES:
            features = Standardise(name=f"{modality}_standardise")(getattr(batch, modality))
            # The published model knows no missing modality: what is absent is a zero feature.
            there = batch.present[:, :, MODALITIES.index(modality)]
            features = jnp.where(there[..., None], features, 0)
            x[modality] = linear(
                features.astype(dtype), c.width, f"{modality}_input", axes=(None, "embed")
            )

        speakers = len(self.signature.speakers)
        table = self.param(
            "speaker_embedding", nn.initializers.normal(1.0), (speakers + 1, c.width), jnp.float32
        )
        # The row of padding is part of the published model but never trained.
        padding = jax.lax.stop_gradient(table[speakers])
        identity = jax.nn.one_hot(batch.speaker, speakers) @ table[:speakers]
        speaker = jnp.where(mask[..., None], identity, padding).astype(dtype)

        relation_table = self.param(
            "relation_embedding", nn.initializers.normal(1.0), (RELATIONS, RELATION_WIDTH),
            jnp.float32,
        )  # fmt: skip
        codes = relations(batch.speaker, visible(batch.segment, window=c.window))
        same = jnp.where(codes < OTHER_FUTURE, codes, 0)
        cross = jnp.where((codes >= OTHER_FUTURE) | (codes == SELF), codes, 0)
        graph = rematerialised(RelationGAT, self.remat)
        text = graph(c, name="cross_speaker_graph")(x["text"], relation_table, cross, within)
        text = graph(c, name="same_speaker_graph")(text, relation_table, same, within)
        streams = {"text": text}
        for modality in ("audio", "visual"):
            encoder = rematerialised(Encoder, self.remat)
            streams[modality] = encoder(c, name=f"{modality}_encoder")(
                x[modality], speaker, mask, extent
            )

        # Rows in shares cannot be compacted without moving them between devices, so what each
        # device holds is computed whole; what dropout takes is that of the compacted rows.
        shared = divided("batch") or target()[0] == ANY
        everybody = constrain(mask, None, None).ravel()
        place = (everybody.cumsum() - 1) if shared else None

        def real(y: Array) -> Array:
            return y.reshape(-1, y.shape[-1]) if shared else compact(y, mask, capacity)

        def padded(y: Array) -> Array:
            return y.reshape(*mask.shape, -1) if shared else expand(y, mask)

        normed = {m: LayerNorm(1e-5, name=f"{m}_fusion_norm")(y) for m, y in streams.items()}
        scores = []
        for modality, stream in streams.items():
            others = [normed[m] for m in MODALITIES if m != modality]
            fusion = rematerialised(Fusion, self.remat, static_argnums=(5,))
            y = fusion(c, name=f"{modality}_fusion")(
                stream, normed[modality], others, within, real, place
            )  # fmt: skip
            if branch.head_reads_input:
                y = y + real(stream)
            y = Dropout(c.dropout)(nn.leaky_relu(y, branch.head_slope), place)
            scores.append(linear(y, len(self.signature.labels), f"{modality}_head"))
        modality_logits = jnp.stack(scores, axis=1).astype(jnp.float32)
        logits = jnp.einsum("nmc,m->nc", modality_logits, jnp.asarray(branch.modality_weight))
        modality_logits = rearrange(modality_logits, "n m c -> n (m c)")
        return Output(
            logits=padded(logits),
            modality_logits=rearrange(
                padded(modality_logits), "b l (m c) -> b l m c", m=len(MODALITIES)
            ),
        )
