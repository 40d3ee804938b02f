"""The rival: the published ReDiFu as a PyTorch user would write it, with the split GAT logits.

Own code from the equations of the published model. Modules carry the published state dict's names,
so its weights load as they are. It keeps the published defects and the published padding; what
makes the published implementation slow (a B x L x L x 2D tensor in each GAT layer, self-attention
that is discarded) is left out. Fusion uses PyTorch's fused attention.

Shape letters are those of `emojax.types`.
"""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from emojax.ops.masks import OTHER_FUTURE, OTHER_PAST, RELATIONS, SAME_FUTURE, SAME_PAST, SELF

RELATION_WIDTH = 10
LETTERS = "tav"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes and the choices in which the published branches differ; defaults are IEMOCAP's."""

    branch: str = "iemocap"
    widths: tuple[int, int, int] = (1024, 1582, 342)
    classes: int = 6
    speakers: int = 2
    width: int = 512
    heads: int = 64
    window: int = 20
    dropout: float = 0.5
    graph_dropout: float = 0.2

    @property
    def iemocap(self) -> bool:
        return self.branch == "iemocap"


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
        rate = 10000.0 ** (-torch.arange(0, width, 2) / width)
        angle = torch.arange(length)[:, None] * rate
        self.register_buffer("pe", torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[None])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]]


class GATLayer(nn.Module):
    def __init__(self, inputs: int, width: int, relation: nn.Embedding, drop: float, last: bool):
        super().__init__()
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(inputs, width)))
        self.a = nn.Parameter(nn.init.xavier_uniform_(torch.empty(2 * width + RELATION_WIDTH, 1)))
        self.relation_embedding = relation
        self.layer_norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(drop)
        self.last = last

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = x @ self.W
        width = h.shape[-1]
        source, target, relation = self.a.split([width, width, RELATION_WIDTH])
        edge_score = F.embedding(edges, self.relation_embedding.weight @ relation)[..., 0]
        scores = F.leaky_relu(h @ source + (h @ target).mT + edge_score, 0.2)
        attention = scores.masked_fill(edges == 0, -9e15).softmax(-1)
        y = self.layer_norm(self.drop(attention) @ h)
        return y if self.last else F.gelu(y)


class RelationGAT(nn.Module):
    def __init__(self, s: Settings, relation: nn.Embedding):
        super().__init__()
        drop = s.graph_dropout
        self.attentions = nn.ModuleList(
            GATLayer(s.width, s.width, relation, drop, last=False) for _ in range(2)
        )
        self.out_att = GATLayer(2 * s.width, s.width, relation, drop, last=True)
        self.fc = nn.Linear(s.width, s.width)
        self.layer_norm = nn.LayerNorm(s.width)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        heads = torch.cat([head(x, edges) for head in self.attentions], -1)
        return self.layer_norm(self.fc(F.gelu(self.out_att(heads, edges))) + x)


class DeltaNet(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.Linear(width, width), nn.Sigmoid())
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.gate(x) * self.norm(self.conv(x.mT).mT)


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


class DifferentialAttention(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.heads = s.heads
        self.qkv = nn.Linear(s.width, 3 * s.width)
        self.out = nn.Linear(s.width, s.width)
        self.lambda_ = nn.Parameter(torch.tensor(0.1))
        self.drop = nn.Dropout(s.dropout)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(z).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (q * z.shape[-1] ** -0.5) @ k.mT
        padding = ~mask[:, None, None, :]
        # Scores of keys rolled along L are the rolled scores: no second product.
        first = scores.masked_fill(padding, -1e9).softmax(-1)
        second = scores.roll(1, -1).masked_fill(padding, -1e9).softmax(-1)
        y = self.drop(first - second) @ v
        return self.out(self.lambda_ * y.transpose(1, 2).flatten(-2))


class FeedForward(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.layer_norm = nn.LayerNorm(s.width, 1e-6)
        self.w_1 = nn.Linear(s.width, s.width)
        self.w_2 = nn.Linear(s.width, s.width)
        self.scale = 1.0 if s.iemocap else 1.32
        self.drop = nn.Dropout(s.dropout)

    def forward(self, z: Tensor) -> Tensor:
        h = self.scale * F.gelu(self.w_1(self.layer_norm(z)), approximate="tanh")
        return z + self.drop(self.w_2(self.drop(h)))


class EncoderLayer(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.self_attn = DifferentialAttention(s)
        self.feed_forward = FeedForward(s)
        self.norm1 = nn.LayerNorm(s.width, 1e-6)
        self.norm2 = nn.LayerNorm(s.width, 1e-6)

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        z = self.norm1(z + self.self_attn(z, mask))
        return self.norm2(z + self.feed_forward(z))


class Encoder(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        self.pos_emb = Rotary(s.width) if s.iemocap else Sinusoidal(s.width)
        self.delta_net = DeltaNet(s.width)
        self.context_gate = ContextGate(s.width)
        self.internal_transformer = nn.ModuleList([EncoderLayer(s)])
        self.pre_norm = nn.LayerNorm(s.width, 1e-6)
        self.drop = nn.Dropout(s.dropout)
        self.residual_scale = 0.5 if s.iemocap else 1.0

    def forward(self, x: Tensor, speaker: Tensor, mask: Tensor) -> Tensor:
        p = self.drop(self.pos_emb(x) + speaker)
        z = self.pre_norm(self.context_gate(p, self.delta_net(x)))
        for layer in self.internal_transformer:
            z = layer(z, mask)
        return p + self.residual_scale * z


class SigmoidGate(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(inputs, width), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x)


class CrossAttention(nn.Module):
    """One modality's queries on each of the others, through its own QKV; no mask, as published."""

    def __init__(self, s: Settings):
        super().__init__()
        self.heads = s.heads // 2 if s.iemocap else s.heads
        self.qkv = nn.Linear(s.width, 3 * s.width, bias=False)
        self.proj = nn.Linear(s.width, s.width)

    def forward(self, query: Tensor, others: list[Tensor]) -> Tensor:
        def split(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        width = query.shape[-1]
        q = split(F.linear(query, self.qkv.weight[:width]))
        found: list[Tensor] = []
        for other in others:
            k, v = F.linear(other, self.qkv.weight[width:]).chunk(2, -1)
            found.append(F.scaled_dot_product_attention(q, split(k), split(v)))
        total = (found[0] + found[1]).transpose(1, 2).flatten(-2)
        # One projection of the sum: its bias counts once for each modality attended to.
        return F.linear(total, self.proj.weight, len(others) * self.proj.bias)


class MLP(nn.Module):
    def __init__(self, width: int, drop: float):
        super().__init__()
        hidden = []
        for inputs in (width, 4 * width, 4 * width):
            hidden += [nn.Linear(inputs, 4 * width), nn.GELU(), nn.Dropout(drop)]
        self.layers = nn.Sequential(*hidden, nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Fusion(nn.Module):
    def __init__(self, s: Settings):
        super().__init__()
        for letter in LETTERS:
            self.add_module(f"norm_{letter}", nn.LayerNorm(s.width))
            self.add_module(f"attn_{letter}", CrossAttention(s))
            self.add_module(f"gate_{letter}", SigmoidGate(2 * s.width, s.width))
            self.add_module(f"mlp_{letter}", MLP(s.width, s.dropout))

    def forward(self, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        part = self.get_submodule
        normed = {m: part(f"norm_{m}")(x) for m, x in streams.items()}
        fused = {}
        for m, x in streams.items():
            found = part(f"attn_{m}")(normed[m], [normed[o] for o in LETTERS if o != m])
            g = part(f"gate_{m}")(torch.cat([x, found], -1))
            fused[m] = x + part(f"mlp_{m}")(g * x + (1 - g) * found)
        return fused


class TorchRedifuAuthors(nn.Module):
    """The whole model; `forward` gives logits f32[B, L, C] and f32[B, L, M, C]."""

    def __init__(self, s: Settings):
        super().__init__()
        self.settings = s
        text, audio, visual = s.widths
        self.speaker_embeddings = nn.Embedding(s.speakers + 1, s.width, padding_idx=s.speakers)
        self.relation_embedding = nn.Embedding(RELATIONS, RELATION_WIDTH)
        self.textf_input = nn.Linear(text, s.width)
        self.acouf_input = nn.Linear(audio, s.width)
        self.visuf_input = nn.Linear(visual, s.width)
        self.gatTer = RelationGAT(s, self.relation_embedding)
        self.gatT = RelationGAT(s, self.relation_embedding)
        self.a_a, self.v_v = Encoder(s), Encoder(s)
        self.agate, self.vgate = SigmoidGate(s.width, s.width), SigmoidGate(s.width, s.width)
        self.mutual_former = Fusion(s)
        slope = 0.01 if s.iemocap else 0.0
        for letter in LETTERS:
            head = nn.Sequential(
                nn.LeakyReLU(slope), nn.Dropout(s.dropout), nn.Linear(s.width, s.classes)
            )
            self.add_module(f"{letter}_output_layer", head)
        self.modality_weight = (1.0, 1.0, 0.4) if s.iemocap else (3.0, 1.0, 0.3)

    def forward(
        self, text: Tensor, audio: Tensor, visual: Tensor, speaker: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        s = self.settings
        same, cross = relation_graphs(speaker, mask, s.window)
        who = self.speaker_embeddings(torch.where(mask, speaker, s.speakers))
        t = self.gatT(self.gatTer(self.textf_input(text), cross), same)
        a = self.a_a(self.acouf_input(audio), who, mask)
        v = self.v_v(self.visuf_input(visual), who, mask)
        streams = {"t": t, "a": self.agate(a) * a, "v": self.vgate(v) * v}
        fused = self.mutual_former(streams)
        each = torch.stack(
            [
                self.get_submodule(f"{m}_output_layer")(fused[m] + x if s.iemocap else fused[m])
                for m, x in streams.items()
            ],
            -2,
        )
        weight = each.new_tensor(self.modality_weight)
        return weight @ each, each


def relation_graphs(speaker: Tensor, mask: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Codes i64[B, L, L] of the same-speaker and the cross-speaker graph, 0 where no edge is."""
    column = torch.arange(mask.shape[1], device=mask.device)
    ahead = column[:, None] - column
    seen = mask[:, :, None] & mask[:, None, :] & (ahead.abs() <= window)
    alike = speaker[:, :, None] == speaker[:, None, :]
    past = ahead > 0
    same = torch.where(past, SAME_PAST, SAME_FUTURE) * (seen & alike)
    cross = torch.where(past, OTHER_PAST, OTHER_FUTURE) * (seen & ~alike)
    own = seen & (ahead == 0)
    return same.masked_fill(own, SELF), cross.masked_fill(own, SELF)


def loss(
    logits: Tensor, modality_logits: Tensor, label: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """NLL of the decision plus a tenth of each modality's squared NLL; label -1 is not scored."""

    def nll(scores: Tensor) -> Tensor:
        return F.cross_entropy(scores.flatten(0, 1), label.flatten(), class_weight, ignore_index=-1)

    return nll(logits) + sum(nll(x).square() for x in modality_logits.unbind(-2)) / 10


def parameter_count(model: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in model.parameters())
