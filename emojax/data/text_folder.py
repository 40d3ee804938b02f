"""Folders of text encoders, as Hugging Face saves them: read, checked and written.

Known are BERT (MiniLM among them) and RoBERTa: `config.json`, `tokenizer.json` and
`model.safetensors`, the encoder alone or inside of a whole model. A folder that `emojax
finetune-text` wrote has `emojax.json` besides: what the encoder is to be shown, and how deep its
features are taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emojax.data.context import Context
from emojax.errors import ConfigError, DataError
from emojax.files import write_atomically

if TYPE_CHECKING:
    from emojax.nn.encoders.bert import BertConfig

FILES = ("config.json", "tokenizer.json", "model.safetensors")
OURS = "emojax.json"
KINDS = ("bert", "roberta", "xlm-roberta")
_AGAIN = "Fetch it again"


def read_config(path: Path) -> BertConfig:
    """Sizes from `config.json`.

    Raises:
      DataError: it cannot be read, or describes a network of another kind.
    """
    from emojax.nn.encoders.bert import BertConfig

    fix = "Use the folder of a BERT or RoBERTa as Hugging Face saves it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["model_type"]
        activation = content.get("hidden_act", "gelu")
        # RoBERTa numbers positions from behind the row of padding.
        first = 0 if kind == "bert" else content.get("pad_token_id", 1) + 1
        config = BertConfig(
            vocabulary=content["vocab_size"], width=content["hidden_size"],
            layers=content["num_hidden_layers"], heads=content["num_attention_heads"],
            feed_forward=content["intermediate_size"],
            positions=content["max_position_embeddings"], kinds=content["type_vocab_size"],
            epsilon=float(content["layer_norm_eps"]), first_position=first,
        )  # fmt: skip
        unsized = ("epsilon", "first_position")
        sizes = [value for name, value in vars(config).items() if name not in unsized]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes}")
        if config.width % config.heads:
            raise ValueError(f"{config.heads} heads do not divide {config.width}")
        if type(first) is not int or not 0 <= first < config.positions:
            raise ValueError(f"pad_token_id {content.get('pad_token_id')}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"not the description of a BERT ({error!r})", file=path, fix=fix) from error
    positions = content.get("position_embedding_type", "absolute")
    if kind not in KINDS or (activation, positions) != ("gelu", "absolute"):
        raise DataError(
            f"a {kind} with {activation} and {positions} positions, where a bert or roberta with "
            "gelu and absolute ones is read", file=path, fix=fix,
        )  # fmt: skip
    return config


def read_context(path: Path) -> tuple[Context, int] | None:
    """What `emojax.json` says: the context, and of how many depths features are; None without it.

    Raises:
      DataError: it cannot be read or says what cannot be.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        turns, tokens, speakers = (content[name] for name in ("turns", "tokens", "speakers"))
        depths = content["depths"]
        whole = [turns, depths, *([] if tokens is None else [tokens])]
        if not all(type(x) is int for x in whole) or type(speakers) is not bool or depths < 1:
            raise ValueError(f"{turns!r}, {tokens!r}, {speakers!r}, {depths!r}")
        return Context(turns, tokens, speakers), depths
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise DataError(
            f"not what finetune-text writes ({error!r})", file=path,
            fix="It holds turns and depths (whole numbers), tokens (likewise, or null) and "
            "speakers (true or false)",
        ) from error  # fmt: skip


def read_tokenizer(path: Path, config: BertConfig) -> Any:
    """`tokenizer.json`, without the truncation and padding that it may ask for.

    Raises:
      DataError: it cannot be read, or numbers word pieces that the model does not know.
    """
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"not a tokenizer ({error})", file=path, fix=_AGAIN) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    most = max(tokenizer.get_vocab().values(), default=0)
    if most >= config.vocabulary:
        raise DataError(
            f"it numbers word pieces up to {most}, and the model knows {config.vocabulary}",
            file=path, fix="Tokenizer and model should be of one kind",
        )  # fmt: skip
    return tokenizer


def read_variables(path: Path, config: BertConfig) -> dict[str, Any]:
    """The encoder's parameters from `model.safetensors`; kernels are stored transposed there.

    Raises:
      DataError: it cannot be read, or does not hold the finite tensors that the config asks for.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return _variables(load_file(path), config, path)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read ({error})", file=path, fix=_AGAIN) from error


def _variables(tensors: Mapping[str, np.ndarray], config: BertConfig, file: Path) -> dict[str, Any]:
    import jax

    from emojax.nn.encoders.bert import BertEncoder

    tensors = {_bare(name): value for name, value in tensors.items()}
    # Before anything of that many layers is traced.
    last = f"encoder.layer.{config.layers - 1}.output.dense.weight"
    if last not in tensors:
        raise DataError("the tensor is missing", file=file, field=last, fix=_AGAIN)
    shapes = jax.eval_shape(
        BertEncoder(config).init,
        jax.random.key(0),
        np.zeros((1, 1), np.int32),
        np.ones((1, 1), bool),
    )

    def read(path: tuple[Any, ...], wanted: Any) -> np.ndarray:
        names = [entry.key for entry in path[1:]]
        name = _their_name(names)
        if name not in tensors:
            raise DataError("the tensor is missing", file=file, field=name, fix=_AGAIN)
        value = tensors[name].astype(np.float32)
        value = value.T if names[-1] == "kernel" else value
        if value.shape != wanted.shape or not np.isfinite(value).all():
            raise DataError(
                f"shape {value.shape} or values do not fit config.json, which asks for finite "
                f"{wanted.shape}", file=file, field=name, fix=_AGAIN,
            )  # fmt: skip
        return value

    return jax.tree_util.tree_map_with_path(read, shapes)


def write_folder(
    folder: Path, like: Path, variables: Mapping[str, Any], context: Context, depths: int
) -> Path:
    """An encoder's folder with other weights, which Hugging Face's own code reads as well.

    Args:
      folder: appears when it is complete; what stood there before goes.
      like: the folder that the encoder came from, whose configuration and tokenizer are copied.
      variables: of a `BertEncoder`.

    Raises:
      DataError: it cannot be written.
    """
    import jax
    from safetensors.numpy import load_file, save

    # Tensors that the encoder has no use for, such as a pooler, stay as they were.
    tensors = {_bare(name): value for name, value in load_file(like / FILES[2]).items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        names = [entry.key for entry in path[1:]]
        value = np.asarray(leaf, np.float32)
        tensors[_their_name(names)] = np.ascontiguousarray(
            value.T if names[-1] == "kernel" else value
        )
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    write_atomically(beside / FILES[2], save(tensors, {"format": "pt"}))
    for name in FILES[:2]:
        write_atomically(beside / name, (like / name).read_bytes())
    content = {
        "turns": context.turns, "tokens": context.tokens, "speakers": context.speakers,
        "depths": depths,
    }  # fmt: skip
    write_atomically(beside / OURS, json.dumps(content, indent=1) + "\n")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        return beside.rename(folder)
    except OSError as error:
        raise DataError(f"cannot be written: {error}", file=folder) from error


_THEIRS = {
    "words": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "kinds": "embeddings.token_type_embeddings.weight",
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attention_output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "hidden": "intermediate.dense", "output": "output.dense", "norm": "output.LayerNorm",
}  # fmt: skip


def _bare(name: str) -> str:
    """Whole models store their encoder under a prefix."""
    return name.removeprefix("bert.").removeprefix("roberta.")


def _their_name(ours: Sequence[str]) -> str:
    if len(ours) == 1:
        return _THEIRS[ours[0]]
    *layer, module, leaf = ours
    leaf = "bias" if leaf == "bias" else "weight"
    if not layer:  # the one norm outside the layers
        return f"embeddings.LayerNorm.{leaf}"
    return f"encoder.layer.{layer[0].removeprefix('layer_')}.{_THEIRS[module]}.{leaf}"
