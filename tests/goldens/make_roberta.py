"""Makes `roberta/`: a small RoBERTa of random weights and what transformers says of it.

    pip install torch transformers
    python -m tests.goldens.make_roberta

Saved as a masked language model, so that the encoder's tensors stand under their prefix beside
those of a head. `expected.npz` holds `small`, as that of `make_bert`; `last`, the last hidden
states of the texts of `CONTEXT` in one padded batch, zeros behind each; `lengths` of these; and
gradients, by the names of `GRADIENTS`, of the mean cross-entropy of `LABELS`, decided by the linear
layer `head` from the means over the word pieces from the second to the one before the last.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.goldens.make_bert import TEXTS, draw_the_rest, features

FOLDER = Path(__file__).parent / "roberta"
CONTEXT = ("Ann: a good day", "Bob: no, it was not!", "a")
LABELS = (1, 0, 2)
GRADIENTS = (
    "embeddings.word_embeddings.weight",
    "embeddings.position_embeddings.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.2.attention.output.LayerNorm.weight",
    "encoder.layer.4.output.dense.bias",
)
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main() -> None:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import RobertaConfig, RobertaForMaskedLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([*TEXTS, *CONTEXT], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    FOLDER.mkdir(exist_ok=True)
    tokenizer.save(str(FOLDER / "tokenizer.json"))

    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=16,
        num_hidden_layers=5,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-5,
        initializer_range=0.3,
    )
    whole = RobertaForMaskedLM(config).eval()
    draw_the_rest(whole)
    whole.save_pretrained(FOLDER)

    rows = [tokenizer.encode(text).ids for text in CONTEXT]
    lengths = np.array(list(map(len, rows)))
    padded = torch.full((len(rows), int(lengths.max())), 1)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    mask = padded != 1
    last = whole.roberta(padded, attention_mask=mask.long()).last_hidden_state
    inner = mask & (padded > 2)
    pooled = (last * inner[..., None]).sum(1) / inner.sum(1, keepdim=True)
    head = torch.randn(16, 3)
    torch.nn.functional.cross_entropy(pooled @ head, torch.tensor(LABELS)).backward()
    named = dict(whole.roberta.named_parameters())
    last = last.detach()
    last[~mask] = 0
    np.savez_compressed(
        FOLDER / "expected.npz",
        small=features(whole.roberta, lambda text: tokenizer.encode(text).ids),
        last=last.numpy(),
        lengths=lengths,
        head=head.numpy(),
        **{name: named[name].grad.numpy() for name in GRADIENTS},
    )


if __name__ == "__main__":
    main()
