"""The text encoder's part of `experiments.bench.encoders`.

Both sides get the same word pieces. Features: utterances of MELD's lengths, in batches of like
length, each side padding as it does. A step: 32 utterances in a context of 64 word pieces, dropout
.1, clipped AdamW on all parameters, fp32; torch on as many threads as the process has cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.bench.timing import in_turn, median

UTTERANCES, ROWS, PIECES, CLASSES = 512, 32, 64, 7
SIZES = {
    "vocabulary": 30522, "width": 384, "layers": 6, "heads": 12, "feed_forward": 1536,
    "positions": 512, "kinds": 2, "epsilon": 1e-12,
}  # fmt: skip
"""Of MiniLM."""


def lengths() -> np.ndarray:
    """i64[UTTERANCES] word pieces: log-normal with MELD's median of 11 and mean of 13."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(11), 0.6, UTTERANCES))
    return np.clip(drawn.round(), 3, 100).astype(int)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Rows as `experiments.bench.encoders` shows them."""
    found = []
    for what, count, ours, theirs in (
        ("features of utterances", UTTERANCES, _features, _torch_features),
        ("a step of fine-tuning", ROWS, _step, _torch_step),
    ):
        programs = {"emojax": ours()}
        try:
            programs["transformers on torch"] = theirs()
        except ImportError as error:
            print(f"left out: {error.name} is not installed (pip install 'emojax[bench]')")
        for name, seconds in median(in_turn(programs, rounds=rounds)).items():
            found.append({"what": what, "contender": name, "seconds": seconds,
                          "rate": count / seconds, "unit": "utterances/s"})  # fmt: skip
    return found


def _pieces() -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [generator.integers(1000, 30000, n).tolist() for n in lengths()]


def _features() -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from emojax.data.context import Shown
    from emojax.data.text_encoder import encode_pieces
    from emojax.nn.encoders.bert import BertConfig, BertEncoder

    config = BertConfig(**SIZES)
    init = jax.jit(BertEncoder(config).init)
    variables = init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    shown = [Shown(ids, 0, len(ids)) for ids in _pieces()]
    return lambda: encode_pieces(config, variables, shown, depths=4)


def _torch_features() -> Callable[[], Any]:
    import torch

    model, pieces = _bert().eval(), sorted(_pieces(), key=len)

    def encode() -> float:
        total = 0.0
        for start in range(0, len(pieces), ROWS):
            tokens, mask = _padded(pieces[start : start + ROWS])
            with torch.inference_mode():
                states = model(tokens, attention_mask=mask, output_hidden_states=True).hidden_states
                last, weight = torch.cat(states[-4:], -1), mask[..., None].float()
                total += float(((last * weight).sum(1) / weight.sum(1)).sum())
        return total

    return encode


def _step() -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from emojax.config.finetune import TextConfig, TuneConfig
    from emojax.nn.encoders.bert import BertConfig
    from emojax.train.finetune.examples import TextBatch
    from emojax.train.finetune.step import Program, initial_state, make_step

    program = Program(BertConfig(**SIZES), CLASSES, TextConfig(), TuneConfig(), None)
    state, frozen = initial_state(program, None, 0)
    tokens, label = _batch()
    whole = np.full(ROWS, PIECES, np.int32)
    batch = jax.device_put(TextBatch(tokens, 0 * whole + 40, whole, whole, label))
    rates, step = jnp.full(2 + SIZES["layers"], 1e-4), make_step(program)

    def advance() -> Any:
        nonlocal state
        state, metrics = step(state, frozen, batch, rates)
        return metrics["loss"], state.step

    return advance


def _torch_step() -> Callable[[], Any]:
    import torch

    encoder, head = _bert().train(), torch.nn.Linear(SIZES["width"], CLASSES)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)
    dropout = torch.nn.Dropout(0.1)
    tokens, label = (torch.from_numpy(x).long() for x in _batch())
    mask = torch.ones_like(tokens)

    def advance() -> float:
        optimiser.zero_grad()
        last = encoder(tokens, attention_mask=mask).last_hidden_state
        logits = head(dropout(last[:, 40:].mean(1)))
        loss = torch.nn.functional.cross_entropy(logits, label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return loss.item()

    return advance


def _batch() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    tokens = generator.integers(1000, 30000, (ROWS, PIECES), dtype=np.int32)
    return tokens, generator.integers(0, CLASSES, ROWS, dtype=np.int32)


def _bert() -> Any:
    import torch
    from transformers import BertConfig, BertModel

    mine = getattr(os, "sched_getaffinity", None)
    torch.set_num_threads(len(mine(0)) if mine else os.cpu_count() or 1)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=SIZES["vocabulary"], hidden_size=SIZES["width"],
        num_hidden_layers=SIZES["layers"], num_attention_heads=SIZES["heads"],
        intermediate_size=SIZES["feed_forward"], layer_norm_eps=SIZES["epsilon"],
    )  # fmt: skip
    return BertModel(config, add_pooling_layer=False)


def _padded(pieces: list[list[int]]) -> tuple[Any, Any]:
    import torch

    longest = max(map(len, pieces))
    tokens, mask = (torch.zeros(len(pieces), longest, dtype=torch.long) for _ in range(2))
    for row, ids in enumerate(pieces):
        tokens[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    return tokens, mask
