"""Conversations for a trained model, from whatever file, in the model's own numbering."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from emojax.data.encoded import encode_text
from emojax.data.prepare import open_prepared
from emojax.data.readers import Corpus, read_corpus
from emojax.data.readers.json_lines import none_left, read_json_lines
from emojax.data.text_encoder import TextEncoder
from emojax.errors import DataError
from emojax.types import MODALITIES, UNLABELLED, Conversation, Signature


def read_unseen(
    path: Path, signature: Signature, encoder: TextEncoder | None = None, *,
    any_speaker: bool = True, skip_bad: bool = False,
) -> Corpus:  # fmt: skip
    """Reads JSON lines, a feature file or folder of any known layout, or a prepared corpus.

    Labels and speakers are matched by name. Other names for labels are an error only where
    utterances bear them.

    Args:
      path: recognised by its content.
      signature: of the model.
      encoder: what made the text features that the model was trained on, if they were made from
        transcripts; then so are these.
      any_speaker: whether speakers may have names that the model has never met; they then keep
        the numbers of the file, since all that matters is who is the same.
      skip_bad: set bad conversations aside in `Corpus.skipped` instead of raising.

    Raises:
      DataError: an input that cannot be read, or does not fit the model's widths, labels or,
        unless `any_speaker`, speakers.
    """
    if not path.is_dir():
        if not _is_pickle(path):
            corpus = read_json_lines(
                path, signature, any_speaker=any_speaker, encodes_text=encoder is not None,
                skip_bad=skip_bad,
            )  # fmt: skip
            return corpus if encoder is None else encode_text(corpus, encoder, skip_bad=skip_bad)
        corpus = read_corpus(path, skip_bad=skip_bad)
    elif (path / "dataset_info.json").is_file():
        prepared = open_prepared(path)
        splits = {split: tuple(prepared.split(split)) for split in prepared.hashes}
        corpus = Corpus(prepared.signature, prepared.layout, splits, (), path)
    else:
        corpus = read_corpus(path, skip_bad=skip_bad)
    if encoder is not None:
        corpus = encode_text(corpus, encoder, skip_bad=skip_bad)
    return _renumber(corpus, signature, any_speaker=any_speaker, skip_bad=skip_bad)


def _is_pickle(path: Path) -> bool:
    """Pickles of tuples and lists begin so, whatever their protocol; an object never does."""
    try:
        with path.open("rb") as stream:
            return stream.read(1) in (b"\x80", b"(", b"]")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _renumber(corpus: Corpus, signature: Signature, *, any_speaker: bool, skip_bad: bool) -> Corpus:
    found = corpus.signature
    for modality, has, wants in zip(MODALITIES, found.widths, signature.widths, strict=True):
        if has != wants:
            raise DataError(
                f"features are {has} wide", file=corpus.source, field=modality,
                fix=f"The model takes {wants}: give the features it was trained on",
            )  # fmt: skip
    skipped = list(corpus.skipped)
    splits = {}
    for split, conversations in corpus.splits.items():
        kept = []
        for each in conversations:
            try:
                label = _translate(each, "label", found.labels, signature.labels, corpus.source)
                speaker = each.speaker
                if not any_speaker:
                    speaker = _translate(
                        each, "speaker", found.speakers, signature.speakers, corpus.source
                    )
            except DataError as error:
                if not skip_bad:
                    raise
                skipped.append(error)
                continue
            kept.append(dataclasses.replace(each, label=label, speaker=speaker))
        splits[split] = tuple(kept)
    if not any(splits.values()):
        raise none_left(skipped, corpus.source)
    names = found.speakers if any_speaker else signature.speakers
    return dataclasses.replace(
        corpus, signature=dataclasses.replace(signature, name=found.name, speakers=names),
        splits=splits, skipped=tuple(skipped),
    )  # fmt: skip


def _translate(
    conversation: Conversation, field: str, theirs: tuple[str, ...], ours: tuple[str, ...],
    file: Path,
) -> np.ndarray:  # fmt: skip
    """i32[L]: a field's indices into `theirs` as indices of the same names in `ours`."""
    unknown = UNLABELLED - 1
    table = [ours.index(name) if name in ours else unknown for name in theirs]
    # The index UNLABELLED, -1, finds the entry behind the names.
    translated = np.array([*table, UNLABELLED], np.int32)[getattr(conversation, field)]
    if (translated == unknown).any():
        name = theirs[getattr(conversation, field)[(translated == unknown).argmax()]]
        raise DataError(
            f"the model does not know the {field} {name!r}", file=file,
            conversation=conversation.id, field=field, fix=f"It knows {', '.join(ours)}",
        )  # fmt: skip
    return translated
