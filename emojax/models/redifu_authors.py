"""ReDiFu as its authors published it, defects included (arXiv:2603.25752).

This makes results comparable and weights portable; for everything else there is `redifu`. A row is
one conversation, padded at its end to the batch's longest. Predictions depend on that padding:
fusion attends to it and the rolled keys of the differential attention wrap into it. How far it goes
is therefore a value, `batch.extent`, and not the rows' length, which may be longer so that batches
share a shape.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jax import Array
from jaxtyping import Bool, Float, Int

from emojax.config import RedifuAuthorsConfig
from emojax.models.output import Output
from emojax.nn.layers import (
    Dropout,
    LayerNorm,
    Standardise,
    dense,
    dropout_key,
    gelu,
    rematerialised,
)
from emojax.nn.sharding import (
    constrain,
    divided,
    over_shards,
    partitioned,
    with_gathered,
)
from emojax.ops.compact import compact, expand
from emojax.ops.diff_attention import differential_attention
from emojax.ops.graph_attention import relation_gat
from emojax.ops.masks import OTHER_FUTURE, RELATIONS, SELF, relations, visible
from emojax.ops.random import seeds
from emojax.types import MODALITIES, Batch, Signature

RELATION_WIDTH = 10


@dataclasses.dataclass(frozen=True)
class Branch:
    """Where the published IEMOCAP and MELD models differ (table of the specification)."""

    rotary: bool
    activation_scale: float
    residual_scale: float
    fusion_head_divisor: int
    head_reads_input: bool
    head_slope: float
    modality_weight: tuple[float, float, float]


BRANCHES = {
    "iemocap": Branch(True, 0.5, 0.5, 2, True, 0.01, (1.0, 1.0, 0.4)),
    "meld": Branch(False, 0.66, 1.0, 1, False, 0.0, (3.0, 1.0, 0.3)),
}


def columns_within(extent: Int[Array, " B"], length: int) -> Bool[Array, "B L"]:
    """Columns that belong to the published model's padded row."""
    return jnp.arange(length) < extent[:, None]


def position_signal(x: Float[Array, "B L D"], rotary: bool) -> Float[Array, "B L D"]:
    """Features turned by, or added to, sines and cosines of the column's index."""
    length, width = x.shape[1:]
    rate = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = jnp.arange(length, dtype=jnp.float32)[:, None] * rate
    sin, cos = jnp.sin(angle).astype(x.dtype), jnp.cos(angle).astype(x.dtype)
    if not rotary:
        return x + rearrange(jnp.stack([sin, cos], -1), "l i two -> l (i two)")
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rearrange(turned, "b l i two -> b l (i two)")


def within_root(inputs: int) -> Callable[..., Array]:
    """PyTorch's initial values of affine and convolution layers: uniform in ±1 / sqrt(inputs)."""
    bound = inputs**-0.5
    return functools.partial(jax.random.uniform, minval=-bound, maxval=bound)


def linear(x: Float[Array, "*axes I"], features: int, name: str, **options: Any) -> Array:
    """An affine layer that starts where the published one does."""
    start = within_root(x.shape[-1])
    return dense(features, x.dtype, name, kernel_init=start, bias_init=start, **options)(x)


def product(x: Float[Array, "*axes D"], kernel: Float[Array, "D F"]) -> Float[Array, "*axes F"]:
    """x times a parameter whose rows are divided for storage."""

    return with_gathered(jnp.matmul, x, kernel.astype(x.dtype), "embed", None)


class GATLayer(nn.Module):
    """One layer of the published relation GAT: `heads` maps of the input, each normalised."""

    heads: int
    width: int
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L I"],
        table: Float[Array, "R E"],
        edges: Int[Array, "B L L"],
        within: Bool[Array, "B L"],
    ) -> Float[Array, "B L H D"]:
        init = nn.initializers.xavier_uniform()
        size = (x.shape[-1], self.heads * self.width)
        kernel = self.param("kernel", partitioned(init, "embed", None), size, jnp.float32)
        size = (2 * self.width + RELATION_WIDTH, 1)
        attention = self.param(
            "attention",
            lambda key, *_: jnp.stack(
                [init(k, size, jnp.float32)[:, 0] for k in jax.random.split(key, self.heads)]
            ),
            (self.heads, size[0]),
            jnp.float32,
        )
        source, target, relation = jnp.split(attention, [self.width, 2 * self.width], axis=-1)
        h = rearrange(product(x, kernel), "b l (h d) -> b l h d", h=self.heads)
        y = relation_gat(
            h, source.astype(self.dtype), target.astype(self.dtype), relation @ table.T, edges,
            within, drop_rate=self.drop_rate, key=dropout_key(self, self.drop_rate),
        )  # fmt: skip
        return LayerNorm(1e-5, (self.heads,), name="norm")(y)


class RelationGAT(nn.Module):
    """Two heads, then one layer over both, then a residual: LN(W gelu(GAT(x)) + b + x)."""

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(self, x: Array, table: Array, edges: Array, within: Array) -> Array:
        c = self.config
        options = (c.width, c.graph_dropout, jnp.dtype(c.dtype))
        heads = GATLayer(2, *options, name="heads")(x, table, edges, within)
        both = rearrange(gelu(heads), "b l h d -> b l (h d)")
        y = GATLayer(1, *options, name="out")(both, table, edges, within)[:, :, 0]
        y = linear(gelu(y), c.width, "project")
        return LayerNorm(1e-5, name="norm")(y + x)


class Encoder(nn.Module):
    """Audio's or video's way: position, change over time, gate, one differential layer."""

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        speaker: Float[Array, "B L D"],
        mask: Bool[Array, "B L"],
        extent: Int[Array, " B"],
    ) -> Float[Array, "B L D"]:
        c, branch, width = self.config, BRANCHES[self.config.branch], x.shape[-1]
        p, z = self.enrich(x, speaker, extent)
        z = LayerNorm(1e-6, name="norm1")(z + self.attend(z, mask, extent))
        z = LayerNorm(1e-6, name="norm2")(z + self.feed_forward(z, Dropout(c.dropout)))
        y = p + branch.residual_scale * z
        return nn.sigmoid(linear(y, width, "out_gate")) * y

    # A dozen arrays of the size of x, cheaply made again in the backward pass: only products are
    # kept.
    @functools.partial(nn.remat, policy=jax.checkpoint_policies.dots_saveable)
    def enrich(self, x: Array, speaker: Array, extent: Array) -> tuple[Array, Array]:
        """Position and speaker p, and p gated against how x changes from utterance to utterance."""
        width, dtype = x.shape[-1], x.dtype
        p = Dropout(self.config.dropout)(
            position_signal(x, BRANCHES[self.config.branch].rotary) + speaker
        )

        start = within_root(3)
        taps = self.param("delta_kernel", start, (3, width), jnp.float32)
        bias = self.param("delta_bias", start, (width,), jnp.float32)
        strength = self.param("delta_scale", nn.initializers.ones, (), jnp.float32)
        inside = jnp.where(columns_within(extent, x.shape[1])[..., None], x, 0)
        around = jnp.pad(inside, ((0, 0), (1, 1), (0, 0)))
        change = sum(around[:, i : i + x.shape[1]] * taps[i].astype(dtype) for i in range(3))
        change = LayerNorm(1e-5, name="delta_norm")(change + bias.astype(dtype))
        gate = nn.sigmoid(linear(x, width, "delta_gate"))
        d = x + strength.astype(dtype) * gate * change

        u = LayerNorm(1e-5, name="gate_norm")(jnp.concatenate([p, d], -1))
        g = jnp.tanh(linear(u, width, "gate_hidden"))
        g = nn.sigmoid(linear(g, 1, "gate_score"))
        return p, LayerNorm(1e-6, name="pre_norm")(g * d + (1 - g) * p + p)

    def attend(self, z: Array, mask: Array, extent: Array) -> Array:
        c, width = self.config, z.shape[-1]
        q, k, v = rearrange(linear(z, 3 * width, "qkv"), "b l (n h d) -> n b l h d", n=3, h=c.heads)
        key = dropout_key(self, c.dropout)
        seed = None if key is None else seeds(key, len(z), c.heads)

        def attend(
            q: Array, k: Array, v: Array, mask: Array, extent: Array, seed: Array | None
        ) -> Array:
            # Lambda scales the whole difference.
            return differential_attention(
                q, k, v, 1.0, segment=mask.astype(jnp.int32), rolled=extent,
                scale=1 / math.sqrt(width), drop_rate=c.dropout, seed=seed,
            )  # fmt: skip

        rows = ("batch", None, None, None)
        names = (rows, rows, rows, rows[:2], rows[:1], rows[:2])
        y = over_shards(attend, names, rows)(q, k, v, mask, extent, seed)
        strength = self.param("lambda", nn.initializers.constant(0.1), (), jnp.float32)
        y = rearrange(y, "b l h d -> b l (h d)") * strength.astype(z.dtype)
        return linear(y, width, "out")

    def feed_forward(self, z: Array, drop: Dropout) -> Array:
        width = z.shape[-1]
        h = linear(LayerNorm(1e-6, name="ff_norm")(z), width, "ff_in")
        scale = 2 * BRANCHES[self.config.branch].activation_scale
        h = scale * gelu(h, approximate=True)
        return z + drop(linear(drop(h), width, "ff_out"))


class Fusion(nn.Module):
    """One modality attends to the two others, mixes and transforms what it found.

    Everything after the attention treats each utterance alone, so it runs on the N real ones only.
    """

    config: RedifuAuthorsConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        query: Float[Array, "B L D"],
        others: Sequence[Float[Array, "B L D"]],
        within: Bool[Array, "B L"],
        real: Callable[[Array], Array],
        place: Int[Array, " N"] | None,
    ) -> Float[Array, "N D"]:
        c, width, dtype = self.config, x.shape[-1], x.dtype
        heads = c.heads // BRANCHES[c.branch].fusion_head_divisor
        init = nn.initializers.xavier_uniform()
        shape = (width, 3 * width)
        qkv = self.param("qkv", partitioned(init, "embed", None), shape, jnp.float32)
        bias = self.param("out_bias", nn.initializers.zeros, (width,), jnp.float32)

        def split(y: Array) -> Array:
            return rearrange(y, "b l (h d) -> b l h d", h=heads)

        q = split(product(query, qkv[:, :width]))
        rows = ("batch", None, None, None)

        def look(q: Array, k: Array, v: Array, within: Array) -> Array:
            return differential_attention(
                q, k, v, segment=within.astype(jnp.int32), scale=math.sqrt(heads / width)
            )

        attention = over_shards(look, (rows, rows, rows, rows[:2]), rows)

        def attend(other: Array) -> Array:
            k, v = jnp.split(product(other, qkv[:, width:]), 2, axis=-1)
            return attention(q, split(k), split(v), within)

        first, second = map(attend, others)
        found = real(rearrange(first + second, "b l h d -> b l (h d)"))
        # The projection of a sum: its bias counts once for each modality attended to.
        found = linear(found, width, "out", use_bias=False)
        found += (len(others) * bias).astype(dtype)

        x = real(x)
        gate = nn.sigmoid(linear(jnp.concatenate([x, found], -1), width, "gate"))
        h = gate * x + (1 - gate) * found
        for layer in range(3):
            h = gelu(linear(h, 4 * width, f"mlp_{layer}"))
            h = Dropout(c.dropout)(h, place)
        return x + linear(h, width, "mlp_3")


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
        shared = divided("batch")
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
