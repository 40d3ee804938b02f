"""Both ReDiFus in PyTorch, in one file that needs nothing of emojax: copy it to where models serve.

    module = load("model.safetensors")           # what emojax exported
    probability = predict(module, {"text": text, "audio": None, "visual": visual, "speaker": who})
    save(module, "same.safetensors")             # emojax reads it back

`Redifu` has the parameters of emojax's model by the same names and in the same layouts (affine
kernels are [inputs, outputs]); `RedifuAuthors` those of the published state dict, so published
weights and scripts load as they are. `forward` of both takes the arrays of an emojax batch and
gives logits f32[B, L, C] and each modality's own f32[B, L, M, C]; rows of padding hold finite
numbers of no meaning. In `train()` mode both drop as emojax does, but for `feature_mix`, which is
not there. Everything is computed in the parameters' dtype, whatever `config.dtype` says.

Shape letters: B rows of a batch, L utterances of a row, D model width, H heads, C emotions,
S speakers, M modalities (text, audio, visual), D_m width of a modality's features.
"""

# No `from __future__ import annotations`: with it, dataclasses of a file that is loaded by its path
# look for their module where it need not be registered.

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

MODALITIES = ("text", "audio", "visual")
FORMAT = "emojax 1"

SELF, SAME_PAST, SAME_FUTURE, OTHER_FUTURE, OTHER_PAST = 1, 2, 3, 4, 5
"""Relations of utterance i (who looks) to j (who is seen); 0 is no edge. The past is j < i."""

RELATIONS, RELATION_WIDTH = 6, 10


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a model must know of a corpus; as `emojax.types.Signature`."""

    name: str
    labels: tuple[str, ...]
    speakers: tuple[str, ...]
    widths: tuple[int, int, int]
    frames: tuple[int, int, int] = (1, 1, 1)


@dataclasses.dataclass(frozen=True)
class RedifuConfig:
    """The fields of `emojax.config.RedifuConfig`, which says what they mean."""

    name: str = "redifu"
    width: int = 64
    dropout: float = 0.2
    input_dropout: float = 0.0
    modality_dropout: float = 0.1
    feature_mix: float = 0.0
    modalities: tuple[str, ...] = MODALITIES
    speaker_embedding: bool = False
    alignment: str = "none"
    causal: bool = False
    dtype: str = "float32"
    heads: int = 4
    encoder_layers: int = 1
    attention: str = "dual"
    lambda_init: float | None = None
    delta: bool = True
    graph_layers: int = 2
    graph_heads: int = 4
    window: int = 5
    cross_modal: str = "window"
    speaker_relations: bool = True
    diffusion_steps: int = 2
    gates: bool = True
    text_guidance: bool = True
    chain: bool = True
    feed_forward_ratio: int = 2
    attention_dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class RedifuAuthorsConfig:
    """The fields of `emojax.config.RedifuAuthorsConfig`."""

    name: str = "redifu_authors"
    branch: str = "iemocap"
    width: int = 512
    heads: int = 64
    window: int = 20
    dropout: float = 0.5
    graph_dropout: float = 0.2
    dtype: str = "float32"


CHOICES = {
    "attention": ("temporal", "dual", "v2", "none"),
    "cross_modal": ("none", "utterance", "window"),
    "alignment": ("none",),
    "frames": (1,),
    "branch": ("iemocap", "meld"),
    "modalities": MODALITIES,
}


class Standardise(nn.Module):
    """(x - mean) / deviation with the statistics of the training split."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int, persistent: bool):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width), persistent)
        self.register_buffer("deviation", torch.ones(width), persistent)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def statistics(signature: Signature, *, persistent: bool) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            f"{modality}_standardise": Standardise(width, persistent)
            for modality, width in zip(MODALITIES, signature.widths, strict=True)
        }
    )


def visible(segment: Tensor, *, causal: bool = False, window: int | None = None) -> Tensor:
    """bool[B, L, L]: whether i may look at j, which is of the same conversation, not ahead if
    `causal`, and at most `window` columns away. Padding, segment 0, neither sees nor is seen."""
    column = torch.arange(segment.shape[1], device=segment.device)
    ahead = column[:, None] - column
    seen = (segment[:, :, None] == segment[:, None]) & (segment > 0)[:, :, None]
    if causal:
        seen = seen & (ahead >= 0)
    return seen if window is None else seen & (ahead.abs() <= window)


def relations(speaker: Tensor, seen: Tensor) -> Tensor:
    """i64[B, L, L]: relation of every visible pair, 0 elsewhere."""
    column = torch.arange(speaker.shape[1], device=speaker.device)
    ahead = column[:, None] - column
    past, same = ahead > 0, speaker[:, :, None] == speaker[:, None]
    code = torch.where(
        same,
        torch.where(past, SAME_PAST, SAME_FUTURE),
        torch.where(past, OTHER_PAST, OTHER_FUTURE),
    )
    return code.masked_fill(ahead == 0, SELF) * seen


def places(segment: Tensor) -> Tensor:
    """i64[B, L]: how far each column is from the first of its conversation."""
    column = torch.arange(segment.shape[1], device=segment.device).expand_as(segment)
    return column - torch.where(first_columns(segment), column, 0).cummax(1).values


def first_columns(segment: Tensor) -> Tensor:
    """bool[B, L]: whether a conversation, or padding, begins here."""
    return segment != F.pad(segment[:, :-1], (1, 0), value=-1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis where `mask` holds; a row without any entry is all zeros."""
    least = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, least).softmax(-1).masked_fill(~mask, 0)


def rotate(x: Tensor, position: Tensor) -> Tensor:
    """[B, L, H, d] turned by its position (arXiv:2104.09864)."""
    half = x.shape[-1] // 2
    rate = 10000.0 ** (-torch.arange(half, device=x.device) / max(half, 1))
    angle = position[..., None, None] * rate
    sin, cos = angle.sin().to(x), angle.cos().to(x)
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


def near_zero(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(shape))


class Dense(nn.Module):
    """x kernel + bias."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(inputs, outputs) / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.kernel
        return y if self.bias is None else y + self.bias


class LayerNorm(nn.Module):
    """Normalises the last axis; axes before it may have parameters of their own."""

    def __init__(self, *shape: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * self.scale + self.bias


class FeedForward(nn.Module):
    def __init__(self, c: RedifuConfig):
        super().__init__()
        self.add_module("in", Dense(c.width, c.feed_forward_ratio * c.width))
        self.out = Dense(c.feed_forward_ratio * c.width, c.width)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(F.gelu(self.get_submodule("in")(x))))


class Delta(nn.Module):
    """x + scale sigmoid(gate(x)) LN(conv(x)), depthwise over three utterances of a conversation."""

    def __init__(self, c: RedifuConfig):
        super().__init__()
        self.before, self.after = (2, 0) if c.causal else (1, 1)
        self.kernel = nn.Parameter(torch.randn(3, c.width) / math.sqrt(3))
        self.scale = nn.Parameter(torch.tensor(0.1))
        self.gate = Dense(c.width, c.width)
        self.norm = LayerNorm(c.width)

    def forward(self, x: Tensor, segment: Tensor) -> Tensor:
        length = x.shape[1]
        padded = F.pad(x, (0, 0, self.before, self.after))
        labels = F.pad(segment, (self.before, self.after), value=-1)
        change = torch.zeros_like(x)
        for tap, weight in enumerate(self.kernel):
            mine = labels[:, tap : tap + length] == segment
            change = change + mine[..., None] * padded[:, tap : tap + length] * weight
        return x + self.scale * self.gate(x).sigmoid() * self.norm(change)


class DifferentialAttention(nn.Module):
    """Self-attention with a second map that is subtracted; variants as in emojax."""

    def __init__(self, c: RedifuConfig, depth: int):
        super().__init__()
        self.heads, self.variant, width = c.heads, c.attention, c.width
        self.query = Dense(width, 2 * width if self.variant == "v2" else width, bias=False)
        self.key, self.value, self.out = (Dense(width, width, bias=False) for _ in range(3))
        self.drop = nn.Dropout(c.attention_dropout)
        self.lambda_start = 0.5 if c.lambda_init is None else c.lambda_init
        if self.variant == "temporal":
            start = torch.full((c.heads,), self.lambda_start)
            self.register_parameter("lambda", nn.Parameter(start))
        elif self.variant == "v2":
            self.add_module("lambda", Dense(width, c.heads))
        elif self.variant == "dual":
            if c.lambda_init is None:
                self.lambda_start = 0.8 - 0.6 * math.exp(-0.3 * depth)
            vectors = 0.1 * torch.randn(4, width // c.heads // 2)
            self.register_parameter("lambda", nn.Parameter(vectors))
            self.head_scale = nn.Parameter(torch.ones(width // c.heads))

    def forward(self, x: Tensor, seen: Tensor, first: Tensor, position: Tensor) -> Tensor:
        """Of x[B, L, D], seen bool[B, L, L], and `first` bool[B, L] where a conversation begins."""

        def turned(y: Tensor, groups: int) -> Iterator[Tensor]:
            y = y.unflatten(-1, (self.heads, groups, -1))
            return (rotate(each, position) for each in y.unbind(3))

        def softmax(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
            scores = torch.einsum("bihd,bjhd->bhij", q, k)
            return masked_softmax(q.shape[-1] ** -0.5 * scores, mask[:, None])

        if self.variant == "dual":
            (q, q2), (k, k2) = turned(self.query(x), 2), turned(self.key(x), 2)
            v1, v2, v3, v4 = self.get_parameter("lambda")
            lam = (v1 @ v2).exp() - (v3 @ v4).exp() + self.lambda_start
            weights = softmax(q, k, seen) - lam * softmax(q2, k2, seen)
        elif self.variant == "v2":
            (q, q2), (k,) = turned(self.query(x), 2), turned(self.key(x), 1)
            lam = self.get_submodule("lambda")(x).sigmoid().mT[..., None]
            weights = softmax(q, k, seen) - lam * softmax(q2, k, seen)
        else:
            (q,), (k,) = turned(self.query(x), 1), turned(self.key(x), 1)
            weights = softmax(q, k, seen)
            if self.variant == "temporal":
                # A conversation's first column has no key to receive.
                second = softmax(q, k.roll(1, 1), seen & ~first[:, None])
                weights = weights - self.get_parameter("lambda")[:, None, None] * second
        v = self.value(x).unflatten(-1, (self.heads, -1))
        y = torch.einsum("bhij,bjhd->bihd", self.drop(weights), v)
        if self.variant == "dual":
            y = y * self.head_scale * (y.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
            y = y * (1 - self.lambda_start)
        return self.out(y.flatten(-2))


class DifferentialLayer(nn.Module):
    def __init__(self, c: RedifuConfig, depth: int):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = LayerNorm(c.width), LayerNorm(c.width)
        self.attention = DifferentialAttention(c, depth)
        self.feed_forward = FeedForward(c)
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, seen: Tensor, first: Tensor, position: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.attention_norm(x), seen, first, position))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))


class RelationGraphLayer(nn.Module):
    """Attention along the typed edges of a graph of utterance x modality nodes."""

    def __init__(self, c: RedifuConfig):
        super().__init__()
        self.heads, modalities = c.graph_heads, len(MODALITIES)
        self.relation_embedding = near_zero(self.heads, modalities, modalities, RELATIONS)
        self.attention_norm, self.feed_forward_norm = LayerNorm(c.width), LayerNorm(c.width)
        self.qkv = Dense(c.width, 3 * c.width, bias=False)
        self.out = Dense(c.width, c.width)
        self.feed_forward = FeedForward(c)
        self.drop, self.map_drop = nn.Dropout(c.dropout), nn.Dropout(c.attention_dropout)

    def forward(self, x: Tensor, codes: Tensor, edges: Tensor) -> Tensor:
        """Of x[B, L, M, D]; relation codes i64[B, i, j], edges bool[B, i, m, j, n]."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = (y.permute(0, 3, 1, 2, 4).flatten(2, 3) for y in qkv.unbind(3))
        relation = self.relation_embedding[..., codes].permute(3, 0, 4, 1, 5, 2)
        scores = q * q.shape[-1] ** -0.5 @ k.mT + relation.flatten(4).flatten(2, 3)
        weights = masked_softmax(scores, edges.flatten(3).flatten(1, 2)[:, None])
        y = (self.map_drop(weights) @ v).unflatten(2, x.shape[1:3]).permute(0, 2, 3, 1, 4)
        x = x + self.drop(self.out(y.flatten(-2)))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))


class TextGuidedDiffusion(nn.Module):
    """text + gate(text, z_K) z_K, with z_K audio and video diffused along text's attention."""

    def __init__(self, c: RedifuConfig):
        super().__init__()
        self.heads, self.steps, self.gates = c.heads, c.diffusion_steps, c.gates
        self.text_norm, self.other_norm = LayerNorm(c.width), LayerNorm(c.width)
        self.value, self.out = Dense(c.width, c.width), Dense(c.width, c.width)
        if c.gates:
            self.mix, self.gate = Dense(2 * c.width, 1), Dense(2 * c.width, c.width)
        if c.diffusion_steps > 0:
            self.query, self.key = Dense(c.width, c.width), Dense(c.width, c.width)
            self.restart = nn.Parameter(torch.zeros(c.heads))
        self.drop = nn.Dropout(c.dropout)

    def forward(self, x: Tensor, present: Tensor, seen: Tensor, position: Tensor) -> Tensor:
        """f32[B, L, D] of x[B, L, M, D], present bool[B, L, M] and seen bool[B, L, L]."""
        text, others = self.text_norm(x[:, :, 0]), self.other_norm(x[:, :, 1:])
        score = others.new_zeros(others.shape[:-1])
        if self.gates:
            both = torch.cat([others, text[:, :, None].expand_as(others)], -1)
            score = self.mix(both)[..., 0]
        mix = masked_softmax(score, present[:, :, 1:])[..., None]
        z = (mix * self.value(others)).sum(2)
        if self.steps > 0:
            z = self.diffuse(z, text, present[:, :, 0], seen, position)
        z = self.out(z)
        if self.gates:
            z = z * self.gate(torch.cat([text, z], -1)).sigmoid()
        return x[:, :, 0] + self.drop(z)

    def diffuse(
        self, z: Tensor, text: Tensor, present: Tensor, seen: Tensor, position: Tensor
    ) -> Tensor:
        """z_K of z_{k+1} = (1 - restart) T z_k + restart z_0."""
        q, k = (
            rotate(layer(text).unflatten(-1, (self.heads, -1)), position)
            for layer in (self.query, self.key)
        )
        own = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        # An utterance whose text is missing is seen by itself alone.
        mask = seen & (present[:, None] | own)
        scores = q.shape[-1] ** -0.5 * torch.einsum("bihd,bjhd->bhij", q, k)
        attention = masked_softmax(scores, mask[:, None])
        restart = self.restart.sigmoid()[:, None, None]
        z = source = z.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        for _ in range(self.steps):
            z = (1 - restart) * attention @ z + restart * source
        return z.transpose(1, 2).flatten(-2)


class EmotionChain(nn.Module):
    """Smooths decisions with those of the same speaker and of others, in both ways.

    `emojax.ops.chain.smoothed` has the equations.
    """

    def __init__(self, classes: int, causal: bool):
        super().__init__()
        ways = 1 if causal else 2
        self.transition = nn.Parameter(3 * torch.eye(classes).repeat(ways, 2, 1, 1))
        self.weight = nn.Parameter(torch.zeros(ways, 3))
        self.base = nn.Parameter(torch.zeros(classes))

    def forward(self, unary: Tensor, speaker: Tensor, segment: Tensor) -> Tensor:
        parts = (self.transition, self.weight, self.base)
        transition, weight, base = (part.softmax(-1) for part in parts)
        before = self.log_priors(unary, transition[0], weight[0], base, speaker, segment)
        if len(transition) == 1:
            return unary + before
        turned, *who = (x.flip(1) for x in (unary, speaker, segment))
        after = self.log_priors(turned, transition[1], weight[1], base, *who).flip(1)
        return unary + before + after - base.log()

    @staticmethod
    def log_priors(
        unary: Tensor, transition: Tensor, weight: Tensor, base: Tensor, speaker: Tensor,
        segment: Tensor,
    ) -> Tensor:  # fmt: skip
        """Log probabilities of each utterance's emotions before it is looked at, left to right."""
        rows, length, classes = unary.shape
        column = torch.arange(length, device=unary.device)
        before = (segment[:, :, None] == segment[:, None]) & (column[:, None] > column)
        alike = speaker[:, :, None] == speaker[:, None]
        # Columns count from 1; what stands at 0 is the belief where there is nobody.
        same, other = (
            torch.where(at, column + 1, 0).amax(-1) for at in (before & alike, before & ~alike)
        )
        row = torch.arange(rows, device=unary.device)
        beliefs, priors = [base.expand(rows, classes)], []
        for i in range(length):
            past = torch.stack(beliefs)
            own, others = past[same[:, i], row], past[other[:, i], row]
            prior = weight[0] * own @ transition[0] + weight[1] * others @ transition[1]
            priors.append((prior + weight[2] * base).log())
            beliefs.append((priors[-1] + unary[:, i]).softmax(-1))
        return torch.stack(priors, 1)


class Redifu(nn.Module):
    """emojax's `redifu`: a conversation's output depends on that conversation alone."""

    def __init__(self, config: RedifuConfig, signature: Signature):
        super().__init__()
        self.config, self.signature = config, signature
        self.metadata: dict[str, str] = {}
        c, width, classes = config, config.width, len(signature.labels)
        self.statistics = statistics(signature, persistent=True)
        for modality, features in zip(MODALITIES, signature.widths, strict=True):
            self.add_module(f"{modality}_input", Dense(features, width))
            self.register_parameter(f"{modality}_missing", near_zero(width))
            if c.speaker_embedding:
                table = near_zero(len(signature.speakers), width)
                self.register_parameter(f"{modality}_speaker", table)
            if modality != "text":
                if c.delta:
                    self.add_module(f"{modality}_delta", Delta(c))
                for depth in range(c.encoder_layers):
                    self.add_module(f"{modality}_encoder_{depth}", DifferentialLayer(c, depth))
            self.add_module(f"{modality}_head", Dense(width, classes))
        for depth in range(c.graph_layers):
            self.add_module(f"graph_{depth}", RelationGraphLayer(c))
        if c.text_guidance:
            self.diffusion = TextGuidedDiffusion(c)
        self.head_norm = LayerNorm(len(MODALITIES), width)
        self.head = Dense(len(MODALITIES) * width, classes)
        if c.chain:
            self.chain = EmotionChain(classes, c.causal)
        self.drop, self.input_drop = nn.Dropout(c.dropout), nn.Dropout(c.input_dropout)

    def forward(
        self, text: Tensor, audio: Tensor, visual: Tensor, present: Tensor, speaker: Tensor,
        segment: Tensor, position: Tensor | None = None, extent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits of the decision and of each modality.

        Args:
          text, audio, visual: f32[B, L, D_m]; what is not present may be anything, NaN too.
          present: bool[B, L, M].
          speaker: int[B, L].
          segment: int[B, L]; 0 is padding, 1, 2, ... the conversations that share a row.
          position: int[B, L], place of the utterance in its conversation; counted if not given.
          extent: not read; the published model needs it.
        """
        c = self.config
        allowed = torch.tensor([m in c.modalities for m in MODALITIES], device=present.device)
        present = self.hide_modalities(present & allowed, segment)
        position = places(segment) if position is None else position
        seen, first = visible(segment, causal=c.causal), first_columns(segment)
        given, streams = {"text": text, "audio": audio, "visual": visual}, []
        for i, (modality, features) in enumerate(given.items()):
            x = self.embed(features, present[:, :, i, None], speaker, modality)
            if modality != "text":
                if c.delta:
                    x = self.get_submodule(f"{modality}_delta")(x, segment)
                for depth in range(c.encoder_layers):
                    layer = self.get_submodule(f"{modality}_encoder_{depth}")
                    x = layer(x, seen, first, position)
            streams.append(x)
        x = torch.stack(streams, 2)

        # Who speaks matters to relations alone; all alike, only past and future differ.
        if not c.speaker_relations:
            speaker = torch.zeros_like(speaker)
        if c.graph_layers > 0:
            codes = relations(speaker, visible(segment, causal=c.causal, window=c.window))
            edges = self.edges(codes, present)
            for depth in range(c.graph_layers):
                x = self.get_submodule(f"graph_{depth}")(x, codes, edges)
        if c.text_guidance:
            guided = self.diffusion(x, present, seen, position)
            x = torch.cat([guided[:, :, None], x[:, :, 1:]], 2)

        x = self.drop(self.head_norm(x))
        logits = self.head(x.flatten(-2))
        if c.chain:
            logits = self.chain(logits, speaker, segment)
        each = [self.get_submodule(f"{m}_head")(x[:, :, i]) for i, m in enumerate(MODALITIES)]
        return logits, torch.stack(each, 2)

    def embed(self, x: Tensor, present: Tensor, speaker: Tensor, modality: str) -> Tensor:
        """Features at model width; a learned vector stands where the modality is missing."""
        x = self.statistics[f"{modality}_standardise"](x.masked_fill(~present, 0))
        x = self.get_submodule(f"{modality}_input")(self.input_drop(x))
        x = torch.where(present, x, self.get_parameter(f"{modality}_missing"))
        if self.config.speaker_embedding:
            x = x + F.embedding(speaker, self.get_parameter(f"{modality}_speaker"))
        return x

    def edges(self, codes: Tensor, present: Tensor) -> Tensor:
        """bool[B, i, m, j, n]: whether node (i, m) looks at node (j, n)."""
        crossing = {"none": torch.zeros_like(codes, dtype=torch.bool), "utterance": codes == SELF}
        across = crossing.get(self.config.cross_modal, codes > 0)[:, :, None, :, None]
        same = torch.eye(len(MODALITIES), dtype=torch.bool, device=codes.device)[:, None]
        edge = torch.where(same, (codes > 0)[:, :, None, :, None], across)
        return edge & present[:, None, None]

    def hide_modalities(self, present: Tensor, segment: Tensor) -> Tensor:
        """In training, hide a modality of a whole conversation now and then, but never all."""
        rate = self.config.modality_dropout
        if not self.training or rate == 0:
            return present
        rows, length, modalities = present.shape
        # A row holds at most as many conversations as it has columns.
        keep = torch.rand(rows, length + 1, modalities, device=present.device) >= rate
        keep = keep | ~keep.any(-1, keepdim=True)
        return present & keep.gather(1, segment.long()[..., None].expand_as(present))


class Rotary(nn.Module):
    """IEMOCAP: pairs of neighbouring features turned by position x frequency."""

    inv_freq: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, width, 2) / width))
        self.modality_scales = nn.Parameter(torch.ones(3))  # published, never read

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * self.inv_freq
        sin, cos = angle.sin(), angle.cos()
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


class Sinusoidal(nn.Module):
    """MELD: sines and cosines added."""

    pe: Tensor

    def __init__(self, width: int, length: int = 512):
        super().__init__()
        self.register_buffer("pe", self.table(width, length))

    @staticmethod
    def table(width: int, length: int) -> Tensor:
        rate = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angle = torch.arange(length)[:, None] * rate
        return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[None]

    def forward(self, x: Tensor) -> Tensor:
        length, width = x.shape[1:]
        if length <= self.pe.shape[1]:
            return x + self.pe[:, :length]
        # Where the published table ends, the published model fails.
        return x + self.table(width, length).to(x)


class GATLayer(nn.Module):
    """A layer of the published relation GAT, its scores split into parts: no L x L x 2D array."""

    def __init__(self, inputs: int, width: int, relation: nn.Embedding, drop: float, last: bool):
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, width)))
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * width + RELATION_WIDTH, 1)))
        self.relation_embedding = relation
        self.layer_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(drop)
        self.last = last

    def forward(self, x: Tensor, edges: Tensor, within: Tensor | None) -> Tensor:
        h = x @ self.W
        width = h.shape[-1]
        source, target, relation = self.a.split([width, width, RELATION_WIDTH])
        edge_score = F.embedding(edges, self.relation_embedding.weight @ relation)[..., 0]
        scores = F.leaky_relu(h @ source + (h @ target).mT + edge_score, 0.2)
        scores = scores.masked_fill(edges == 0, -9e15)
        if within is not None:
            scores = scores.masked_fill(~within[:, None], -math.inf)
        y = self.layer_norm(self.drop(scores.softmax(-1)) @ h)
        return y if self.last else F.gelu(y)


class RelationGAT(nn.Module):
    def __init__(self, c: RedifuAuthorsConfig, relation: nn.Embedding):
        super().__init__()
        width, drop = c.width, c.graph_dropout
        self.attentions = nn.ModuleList(
            GATLayer(width, width, relation, drop, last=False) for _ in range(2)
        )
        self.out_att = GATLayer(2 * width, width, relation, drop, last=True)
        self.fc = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, edges: Tensor, within: Tensor | None) -> Tensor:
        heads = torch.cat([head(x, edges, within) for head in self.attentions], -1)
        return self.layer_norm(self.fc(F.gelu(self.out_att(heads, edges, within))) + x)


class DeltaNet(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor, within: Tensor | None) -> Tensor:
        inside = x if within is None else x * within[..., None]
        return x + self.alpha * self.gate(x) * self.norm(self.conv(inside.mT).mT)


class ContextGate(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * width)
        self.w = nn.Sequential(
            nn.Linear(2 * width, width), nn.Tanh(), nn.Linear(width, 1), nn.Sigmoid()
        )

    def forward(self, p: Tensor, d: Tensor) -> Tensor:
        g = self.w(self.norm(torch.cat([p, d], -1)))
        return g * d + (1 - g) * p + p


class RolledAttention(nn.Module):
    """The published differential attention: keys of the second map wrap into padding."""

    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        self.heads = c.heads
        self.qkv = nn.Linear(c.width, 3 * c.width)
        self.out = nn.Linear(c.width, c.width)
        self.lambda_ = nn.Parameter(torch.tensor(0.1))
        self.drop = nn.Dropout(c.dropout)

    def forward(self, z: Tensor, mask: Tensor, extent: Tensor | None) -> Tensor:
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * z.shape[-1] ** -0.5) @ k.mT
        padding = ~mask[:, None, None, :]
        # Scores of keys rolled along L are the rolled scores: no second product.
        if extent is None:
            rolled = scores.roll(1, -1)
        else:
            column = torch.arange(z.shape[1], device=z.device)
            source = (column - 1) % extent[:, None]
            rolled = scores.gather(-1, source[:, None, None].expand_as(scores))
        first = scores.masked_fill(padding, -1e9).softmax(-1)
        second = rolled.masked_fill(padding, -1e9).softmax(-1)
        y = self.drop(first - second) @ v
        return self.out(self.lambda_ * y.transpose(1, 2).flatten(-2))


class PublishedFeedForward(nn.Module):
    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(c.width, 1e-6)
        self.w_1 = nn.Linear(c.width, c.width)
        self.w_2 = nn.Linear(c.width, c.width)
        self.scale = 1.0 if c.branch == "iemocap" else 1.32
        self.drop = nn.Dropout(c.dropout)

    def forward(self, z: Tensor) -> Tensor:
        h = self.scale * F.gelu(self.w_1(self.layer_norm(z)), approximate="tanh")
        return z + self.drop(self.w_2(self.drop(h)))


class EncoderLayer(nn.Module):
    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        self.self_attn = RolledAttention(c)
        self.feed_forward = PublishedFeedForward(c)
        self.norm1 = nn.LayerNorm(c.width, 1e-6)
        self.norm2 = nn.LayerNorm(c.width, 1e-6)

    def forward(self, z: Tensor, mask: Tensor, extent: Tensor | None) -> Tensor:
        z = self.norm1(z + self.self_attn(z, mask, extent))
        return self.norm2(z + self.feed_forward(z))


class Encoder(nn.Module):
    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        self.pos_emb = Rotary(c.width) if c.branch == "iemocap" else Sinusoidal(c.width)
        self.delta_net = DeltaNet(c.width)
        self.context_gate = ContextGate(c.width)
        self.internal_transformer = nn.ModuleList([EncoderLayer(c)])
        self.pre_norm = nn.LayerNorm(c.width, 1e-6)
        self.drop = nn.Dropout(c.dropout)
        self.residual_scale = 0.5 if c.branch == "iemocap" else 1.0

    def forward(
        self, x: Tensor, speaker: Tensor, mask: Tensor, extent: Tensor | None,
        within: Tensor | None,
    ) -> Tensor:  # fmt: skip
        p = self.drop(self.pos_emb(x) + speaker)
        z = self.pre_norm(self.context_gate(p, self.delta_net(x, within)))
        for layer in self.internal_transformer:
            z = layer(z, mask, extent)
        return p + self.residual_scale * z


class SigmoidGate(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(inputs, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


class CrossAttention(nn.Module):
    """One modality's queries on each of the others, through its own QKV; padding is not masked."""

    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        self.heads = c.heads // 2 if c.branch == "iemocap" else c.heads
        self.qkv = nn.Linear(c.width, 3 * c.width, bias=False)
        self.proj = nn.Linear(c.width, c.width)

    def forward(self, query: Tensor, others: list[Tensor], within: Tensor | None) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        width = query.shape[-1]
        q = split(F.linear(query, self.qkv.weight[:width]))
        mask = None if within is None else within[:, None, None]
        found: list[Tensor] = []
        for other in others:
            k, v = F.linear(other, self.qkv.weight[width:]).chunk(2, -1)
            found.append(F.scaled_dot_product_attention(q, split(k), split(v), mask))
        total = (found[0] + found[1]).transpose(1, 2).flatten(-2)
        # One projection of the sum: its bias counts once for each modality attended to.
        return F.linear(total, self.proj.weight, len(others) * self.proj.bias)


class MLP(nn.Module):
    def __init__(self, width: int, drop: float):
        super().__init__()
        hidden: list[nn.Module] = []
        for inputs in (width, 4 * width, 4 * width):
            hidden += [nn.Linear(inputs, 4 * width), nn.GELU(), nn.Dropout(drop)]
        self.layers = nn.Sequential(*hidden, nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Fusion(nn.Module):
    def __init__(self, c: RedifuAuthorsConfig):
        super().__init__()
        for letter in "tav":
            self.add_module(f"norm_{letter}", nn.LayerNorm(c.width))
            self.add_module(f"attn_{letter}", CrossAttention(c))
            self.add_module(f"gate_{letter}", SigmoidGate(2 * c.width, c.width))
            self.add_module(f"mlp_{letter}", MLP(c.width, c.dropout))

    def forward(self, streams: dict[str, Tensor], within: Tensor | None) -> dict[str, Tensor]:
        part = self.get_submodule
        normed = {m: part(f"norm_{m}")(x) for m, x in streams.items()}
        fused = {}
        for m, x in streams.items():
            found = part(f"attn_{m}")(normed[m], [normed[o] for o in streams if o != m], within)
            g = part(f"gate_{m}")(torch.cat([x, found], -1))
            fused[m] = x + part(f"mlp_{m}")(g * x + (1 - g) * found)
        return fused


class RedifuAuthors(nn.Module):
    """ReDiFu as its authors published it (arXiv:2603.25752), defects included.

    What makes their implementation slow (an L x L x 2D array in each GAT layer, self-attention that
    is discarded) is left out; the key set of the state dict is theirs.
    """

    def __init__(self, config: RedifuAuthorsConfig, signature: Signature):
        super().__init__()
        self.config, self.signature = config, signature
        self.metadata: dict[str, str] = {}
        c, width, speakers = config, config.width, len(signature.speakers)
        iemocap = c.branch == "iemocap"
        # The published state dict has no statistics, and its scripts load strictly.
        self.statistics = statistics(signature, persistent=False)
        text, audio, visual = signature.widths
        self.speaker_embeddings = nn.Embedding(speakers + 1, width, padding_idx=speakers)
        self.relation_embedding = nn.Embedding(RELATIONS, RELATION_WIDTH)
        self.textf_input = nn.Linear(text, width)
        self.acouf_input = nn.Linear(audio, width)
        self.visuf_input = nn.Linear(visual, width)
        self.gatTer = RelationGAT(c, self.relation_embedding)
        self.gatT = RelationGAT(c, self.relation_embedding)
        self.a_a, self.v_v = Encoder(c), Encoder(c)
        self.agate, self.vgate = SigmoidGate(width, width), SigmoidGate(width, width)
        self.mutual_former = Fusion(c)
        slope = 0.01 if iemocap else 0.0
        for letter in "tav":
            head = nn.Sequential(
                nn.LeakyReLU(slope), nn.Dropout(c.dropout), nn.Linear(width, len(signature.labels))
            )
            self.add_module(f"{letter}_output_layer", head)
        self.head_reads_input = iemocap
        self.modality_weight = (1.0, 1.0, 0.4) if iemocap else (3.0, 1.0, 0.3)

    def forward(
        self, text: Tensor, audio: Tensor, visual: Tensor, present: Tensor, speaker: Tensor,
        segment: Tensor, position: Tensor | None = None, extent: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Logits of the decision and of each modality, which depend on the padding.

        Args:
          segment: a row is one conversation from column 0 on; 0 is padding.
          position: not read; the column is the position.
          extent: int[B], columns that count as the published padded length; None is all of them.
          The others are as for `Redifu`.
        """
        c, mask = self.config, segment > 0
        within = None
        if extent is not None:
            extent = extent.clamp(min=1)  # a softmax needs a column
            within = torch.arange(mask.shape[1], device=mask.device) < extent[:, None]
        # The published model knows no missing modality: what is absent is a zero feature.
        given = {"text": text, "audio": audio, "visual": visual}
        text, audio, visual = (
            self.statistics[f"{m}_standardise"](x).masked_fill(~present[:, :, i, None], 0)
            for i, (m, x) in enumerate(given.items())
        )
        same, cross = relation_graphs(speaker, mask, c.window)
        who = self.speaker_embeddings(torch.where(mask, speaker, len(self.signature.speakers)))
        t = self.gatT(self.gatTer(self.textf_input(text), cross, within), same, within)
        a = self.a_a(self.acouf_input(audio), who, mask, extent, within)
        v = self.v_v(self.visuf_input(visual), who, mask, extent, within)
        streams = {"t": t, "a": self.agate(a) * a, "v": self.vgate(v) * v}
        fused = self.mutual_former(streams, within)
        each = torch.stack(
            [
                self.get_submodule(f"{m}_output_layer")(
                    fused[m] + x if self.head_reads_input else fused[m]
                )
                for m, x in streams.items()
            ],
            -2,
        )
        weight = each.new_tensor(self.modality_weight)
        return weight @ each, each


def relation_graphs(speaker: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Codes i64[B, L, L] of the same-speaker and the cross-speaker graph, 0 where no edge is."""
    codes = relations(speaker, visible(mask.long(), window=window))
    others = codes >= OTHER_FUTURE
    return codes.masked_fill(others, 0), codes.masked_fill(~others & (codes != SELF), 0)


def published_loss(
    logits: Tensor, modality_logits: Tensor, label: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """NLL of the decision plus a tenth of each modality's squared NLL; label -1 is not scored."""

    def nll(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), label.flatten(), class_weight, ignore_index=-1)

    return nll(logits) + sum(nll(x).square() for x in modality_logits.unbind(-2)) / 10


MODELS: dict[str, Any] = {
    "redifu": (Redifu, RedifuConfig),
    "redifu_authors": (RedifuAuthors, RedifuAuthorsConfig),
}


def load(path: Any) -> Redifu | RedifuAuthors:
    """The model of a file that emojax or `save` wrote, in eval mode, on the CPU.

    Raises ValueError, which names the file, if it is none or does not hold exactly what its model
    needs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
    try:
        module = build(metadata)
        fill(module, tensors)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    module.metadata = dict(metadata)
    return module.eval()


def save(module: Redifu | RedifuAuthors, path: Any) -> None:
    """Write a model with the metadata of the file that it came from."""
    from safetensors.torch import save_file

    if "config" not in module.metadata:
        raise ValueError(
            "the model came from no file; set its `metadata` to that of one, with the keys "
            "format, config and signature"
        )
    # Copies, because safetensors refuses tensors that share memory.
    tensors = {
        name: x.cpu().clone(memory_format=torch.contiguous_format)
        for name, x in tensors_of(module).items()
    }
    save_file(tensors, path, module.metadata)


def build(metadata: Mapping[str, str]) -> Redifu | RedifuAuthors:
    """A model, not yet filled, from a file's metadata; ValueError says what is wrong with it."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f'the format is {metadata.get("format")!r}, not "{FORMAT}"')
    config, signature = (as_dict(metadata, key) for key in ("config", "signature"))
    if config.get("name") not in MODELS:
        raise ValueError(f"the model is {config.get('name')!r}, not one of {', '.join(MODELS)}")
    model, kind = MODELS[config["name"]]
    return model(checked(kind, config, "config"), checked(Signature, signature, "signature"))


def as_dict(metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    try:
        value = json.loads(metadata[key])
    except (KeyError, json.JSONDecodeError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"its metadata has no {key!r} that is a JSON object")
    return value


def checked(kind: Any, values: Mapping[str, Any], what: str) -> Any:
    """A dataclass from a dict; what this file does not know could change the model's outcome."""
    unknown = values.keys() - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(f"this file knows no {what} {', '.join(sorted(unknown))}")
    for name, allowed in CHOICES.items():
        given = values.get(name, ())
        for value in given if isinstance(given, list | tuple) else [given]:
            if value not in allowed:
                known = ", ".join(map(str, allowed))
                raise ValueError(f"{what} {name} is {value!r}, not one of {known}")
    hashable = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**hashable)
    except TypeError as error:
        raise ValueError(f"its {what} is not whole: {error}") from error


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """The model's tensors by their names in a file; writing to them writes to the model."""
    own = {f"params.{k}": x for k, x in module.state_dict().items()}
    own = {k: x for k, x in own.items() if not k.startswith("params.statistics.")}
    numbers = {k: x for k, x in module.named_buffers() if k.startswith("statistics.")}
    return own | numbers


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy a file's tensors into a model; ValueError names the one that does not fit."""
    needed = tensors_of(module)
    for name in sorted(needed.keys() | tensors.keys()):
        if name not in tensors:
            raise ValueError(f"{name} {list(needed[name].shape)} is missing")
        if name not in needed:
            raise ValueError(f"{name} {list(tensors[name].shape)} is no part of the model")
        ours, theirs = needed[name], tensors[name]
        if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
            raise ValueError(
                f"{name} is {theirs.dtype} {list(theirs.shape)}, and the model needs "
                f"{ours.dtype} {list(ours.shape)}"
            )
        ours.copy_(theirs)
    for name, ours in needed.items():
        # Some published names are names of one tensor.
        if not torch.equal(ours.view(torch.int32), tensors[name].view(torch.int32)):
            raise ValueError(
                f"{name} {list(ours.shape)} differs from another name of the same tensor"
            )


def predict(module: Redifu | RedifuAuthors, conversation: Mapping[str, Any]) -> Any:
    """Probabilities f32[L, C] of one conversation, numpy in and out.

    Args:
      conversation: text, audio, visual, each f32[L, D_m], or None or absent where the modality is
        missing; speaker, int[L]; and, if not everything that is given is there, present
        bool[L, M].

    Raises ValueError that names the field that does not fit.
    """
    if module.training:
        raise ValueError("the model is in training mode; call its eval() first")
    signature, like = module.signature, next(module.parameters())
    if conversation.get("speaker") is None:
        raise ValueError("speaker is missing: who says each utterance, as int[L]")
    speaker = torch.tensor(conversation["speaker"]).long()
    if speaker.dim() != 1 or len(speaker) == 0:
        raise ValueError(f"speaker is {list(speaker.shape)}, not one number for each utterance")
    length = len(speaker)
    present = torch.ones(length, len(MODALITIES), dtype=torch.bool)
    if conversation.get("present") is not None:
        given = torch.tensor(conversation["present"]).bool()
        if given.shape != present.shape:
            raise ValueError(f"present is {list(given.shape)}, not {list(present.shape)}")
        present &= given
    features = []
    for i, (modality, width) in enumerate(zip(MODALITIES, signature.widths, strict=True)):
        x = torch.zeros(length, width, dtype=like.dtype)
        if conversation.get(modality) is None:
            present[:, i] = False
        else:
            x = torch.tensor(conversation[modality]).to(like.dtype)
        if x.shape != (length, width):
            raise ValueError(f"{modality} is {list(x.shape)}, not {[length, width]}")
        if not x[present[:, i]].isfinite().all():
            raise ValueError(f"{modality} has a value that is present and not finite")
        features.append(x)
    embeds = getattr(module.config, "speaker_embedding", True)
    if embeds and not ((speaker >= 0) & (speaker < len(signature.speakers))).all():
        raise ValueError(f"speaker must be in 0 ... {len(signature.speakers) - 1} for this model")
    rows = (
        x[None].to(like.device) for x in (*features, present, speaker, torch.ones_like(speaker))
    )
    with torch.no_grad():
        logits, _ = module(*rows)
    return logits[0].softmax(-1).cpu().numpy()
