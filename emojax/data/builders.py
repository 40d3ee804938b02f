"""Every corpus as a TFDS builder: array_record files, no TensorFlow, nothing from the network.

    import emojax.data.builders
    builder = tfds.builder("emojax_mosi", data_dir=FOLDER, source=PATH)
    builder.download_and_prepare()
    builder.as_data_source("train")[0]

A builder's config is its split rule and a digest of source and options, so two rules, two files
or two versions of a file never share a folder. Without a source, the only preparation found
under `data_dir` is opened.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds

from emojax.data.encoded import read_encoded
from emojax.data.readers import SPLITS, Corpus, fingerprint
from emojax.data.splits import OFFICIAL, check_rule, content_hash, make_splits, splits_hash
from emojax.data.statistics import fit_statistics
from emojax.data.text_encoder import TextEncoder, open_text_encoder
from emojax.errors import DataError
from emojax.types import MODALITIES, Conversation, Signature

if TYPE_CHECKING:
    from emojax.data.simulator import SimulatorConfig

VERSION = "1.1.0"
FILE_FORMAT = "array_record"


def config_name(
    source_fingerprint: str,
    split_rule: str,
    validation_fraction: float | None,
    skip_bad: bool,
    encoder_fingerprint: str | None = None,
) -> str:
    """Folder name of one preparation: the split rule and a digest of all that shapes it."""
    options = [source_fingerprint, split_rule, validation_fraction, skip_bad]
    options += [] if encoder_fingerprint is None else [encoder_fingerprint]
    digest = hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]
    return f"{re.sub('[:/]', '-', split_rule)}-{digest}"


def prepared_folders(data_dir: Path, *, builder: str = "emojax_*", config: str = "*") -> list[Path]:
    """The complete preparations under a data folder; TFDS writes to another name until done."""
    found = data_dir.glob(f"{builder}/{config}/{VERSION}/dataset_info.json")
    return sorted(path.parent for path in found)


def features(signature: Signature) -> tfds.features.FeaturesDict:
    """One record: a conversation of L utterances."""
    tensors = {
        modality: tfds.features.Tensor(shape=(None, width), dtype=np.float32)
        for modality, width in zip(MODALITIES, signature.widths, strict=True)
    }
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            **tensors,
            "present": tfds.features.Tensor(shape=(None, len(MODALITIES)), dtype=np.bool_),
            "speaker": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "label": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "transcript": tfds.features.Tensor(shape=(None,), dtype=np.str_),
        }
    )


def encode(conversation: Conversation) -> dict[str, Any]:
    """A conversation as the record `features` describes."""
    record = {
        field.name: getattr(conversation, field.name) for field in dataclasses.fields(conversation)
    }
    return record | {"transcript": np.array(conversation.transcript, dtype=object)}


def decode(record: dict[str, Any]) -> Conversation:
    """The inverse of `encode`."""
    words = record["transcript"]
    return Conversation(
        **{name: np.asarray(record[name]) for name in (*MODALITIES, "present", "speaker", "label")},
        id=_text(record["id"]),
        transcript=tuple(_text(word) for word in words),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class _OfflineInfo(tfds.core.DatasetInfo):
    """TFDS looks for ready-made statistics in a bucket on the network; there are none of ours."""

    def initialize_from_bucket(self) -> None:
        pass


class EmojaxBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """What all corpora share.

    Args of the constructor, beside those of every TFDS builder:
      source: a path, "simulated" or a simulator's config; None opens what is prepared.
      split_rule, validation_fraction: see `emojax.data.splits.make_splits`.
      skip_bad: set bad conversations aside.
      text_encoder: "" or what makes the text features, open or by the name that
        `emojax.data.text_encoder` opens.
      corpus: what `read_encoded` returns for these arguments, if it was called already.

    Raises:
      DataError: a source that cannot be used or is of another corpus; no source, and not exactly
        one preparation to open.
    """

    VERSION = tfds.core.Version(VERSION)
    url_infos = None  # No checksums of downloads; looking for them needs an undeclared package.
    CORPUS: str
    HOMEPAGE: str | None = None
    CITATION: str | None = None

    def __init__(
        self,
        *,
        source: str | Path | SimulatorConfig | None = None,
        split_rule: str = OFFICIAL,
        validation_fraction: float | None = None,
        skip_bad: bool = False,
        text_encoder: str | TextEncoder = "",
        corpus: Corpus | None = None,
        data_dir: str | Path | None = None,
        config: str | tfds.core.BuilderConfig | None = None,
        **kwargs: Any,
    ):
        self.on_examples: Callable[[int], None] = lambda count: None
        self._metadata: dict[str, Any] | None = None
        self._splits: dict[str, tuple[Conversation, ...]] = {}
        if source is None:
            config = self._only_preparation(data_dir, config)
        else:
            check_rule(split_rule)
            digest = fingerprint(source)
            encoder = text_encoder or None
            if isinstance(encoder, str):
                encoder = open_text_encoder(encoder)
            config = config_name(
                digest, split_rule, validation_fraction, skip_bad,
                None if encoder is None else encoder.fingerprint,
            )  # fmt: skip
            corpus = corpus or read_encoded(source, encoder, skip_bad=skip_bad)
            if corpus.signature.name != self.CORPUS:
                raise DataError(
                    f"it holds {corpus.signature.name} ({corpus.layout}), not {self.CORPUS}",
                    file=source,
                    fix=f"Use the builder emojax_{corpus.signature.name}",
                )
            self._splits = make_splits(corpus, split_rule, validation_fraction)
            self._metadata = _metadata(
                corpus, self._splits, encoder, fingerprint=digest, split_rule=split_rule,
                validation_fraction=validation_fraction, skip_bad=skip_bad,
            )  # fmt: skip
        if isinstance(config, str):
            config = tfds.core.BuilderConfig(name=config, version=self.VERSION)
        kwargs.setdefault("file_format", FILE_FORMAT)
        super().__init__(data_dir=data_dir, config=config, **kwargs)
        self._original_state = {
            **kwargs,
            "source": source,
            "split_rule": split_rule,
            "validation_fraction": validation_fraction,
            "skip_bad": skip_bad,
            "text_encoder": getattr(text_encoder, "name", text_encoder),
            "data_dir": data_dir,
            "config": None if source is not None else config,
        }

    def _only_preparation(
        self, data_dir: str | Path | None, config: str | tfds.core.BuilderConfig | None
    ) -> str:
        root = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
        name = "*" if config is None else getattr(config, "name", config)
        found = prepared_folders(root, builder=self.name, config=str(name))
        if len(found) == 1:
            return found[0].parent.name
        if not found:
            raise DataError(f"{self.name} is not prepared here", file=root, fix="Give a source")
        raise DataError(
            f"{self.name} is prepared {len(found)} times here",
            file=root,
            fix=f"Give a source, or config= one of {', '.join(each.parent.name for each in found)}",
        )

    @property
    def conversations(self) -> int:
        """Conversations of the source in all splits."""
        return sum(map(len, self._splits.values()))

    def _info(self) -> tfds.core.DatasetInfo:
        if self._metadata is None:
            layout = tfds.features.FeaturesDict.from_config(self.data_dir)
        else:
            layout = features(Signature.of(self._metadata["signature"]))
        return _OfflineInfo(
            builder=self,
            description=self.__doc__,
            features=layout,
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            metadata=tfds.core.MetadataDict(self._metadata or {}),
            # Records stay in the order of the lists of ids and lengths in the metadata.
            disable_shuffling=True,
        )

    def download_and_prepare(self, *, download_config: Any = None, **kwargs: Any) -> None:
        """As in TFDS; nothing is downloaded, so its bucket is not asked either."""
        if download_config is None:
            download_config = tfds.download.DownloadConfig(try_download_gcs=False)
        super().download_and_prepare(download_config=download_config, **kwargs)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(found) for split, found in self._splits.items()}

    def _generate_examples(
        self, conversations: tuple[Conversation, ...]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, conversation in enumerate(conversations):
            yield key, encode(conversation)
            self.on_examples(1)


def _metadata(
    corpus: Corpus,
    splits: dict[str, tuple[Conversation, ...]],
    encoder: TextEncoder | None,
    **options: Any,
) -> dict[str, Any]:
    """All that is known of a preparation beside its records, as JSON values."""
    return options | {
        "layout": corpus.layout,
        "signature": dataclasses.asdict(corpus.signature),
        "source": str(corpus.source),
        "text_encoder": encoder and {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "statistics": fit_statistics(
            splits["train"], corpus.signature.widths, len(corpus.signature.labels)
        ).to_json(),
        "skipped": [dict(vars(error)) for error in corpus.skipped],
        "splits": {
            split: {
                "ids": [conversation.id for conversation in splits[split]],
                "lengths": [len(conversation) for conversation in splits[split]],
                "ids_hash": splits_hash(conversation.id for conversation in splits[split]),
                "content_hash": content_hash(splits[split]),
            }
            for split in SPLITS
        },
    }


class EmojaxIemocap(EmojaxBuilder):
    """IEMOCAP: dyadic conversations of ten actors in five sessions, utterance features.

    Text, audio and visual features of every utterance, speakers M and F, and six emotions, as in
    the public feature pickles. The corpus itself needs a licence of its publisher.
    """

    CORPUS = "iemocap"
    HOMEPAGE = "https://sail.usc.edu/iemocap/"
    CITATION = """@article{busso2008iemocap,
      title={{IEMOCAP}: Interactive emotional dyadic motion capture database},
      author={Busso, Carlos and Bulut, Murtaza and Lee, Chi-Chun and Kazemzadeh, Abe and
        Mower, Emily and Kim, Samuel and Chang, Jeannette N. and Lee, Sungbok and
        Narayanan, Shrikanth S.},
      journal={Language Resources and Evaluation},
      volume={42}, number={4}, pages={335--359}, year={2008}
    }"""


_MELD_CITATION = """@inproceedings{poria2019meld,
      title={{MELD}: A multimodal multi-party dataset for emotion recognition in conversations},
      author={Poria, Soujanya and Hazarika, Devamanyu and Majumder, Navonil and Naik, Gautam and
        Cambria, Erik and Mihalcea, Rada},
      booktitle={Proceedings of ACL}, pages={527--536}, year={2019}
    }"""


class EmojaxMeld(EmojaxBuilder):
    """MELD: conversations of several speakers from a television series, utterance features.

    Text, audio and visual features of every utterance, speakers one-hot of nine, and seven
    emotions, as in the public feature pickles.
    """

    CORPUS = "meld"
    HOMEPAGE = "https://affective-meld.github.io/"
    CITATION = _MELD_CITATION


class EmojaxMeldText(EmojaxBuilder):
    """MELD's published tables: words, speakers and seven emotions, without audio and video.

    Text features are hashed words and word pairs, a stand-in for a text encoder.
    """

    CORPUS = "meld_text"
    HOMEPAGE = "https://affective-meld.github.io/"
    CITATION = _MELD_CITATION


class EmojaxMosi(EmojaxBuilder):
    """CMU-MOSI: opinions in 93 videos of one speaker each, positive or negative.

    Text, audio and visual features of every utterance, as published with bc-LSTM.
    """

    CORPUS = "mosi"
    HOMEPAGE = "http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/"
    CITATION = """@article{zadeh2016mosi,
      title={Multimodal sentiment intensity analysis in videos: Facial gestures and verbal
        messages},
      author={Zadeh, Amir and Zellers, Rowan and Pincus, Eli and Morency, Louis-Philippe},
      journal={IEEE Intelligent Systems},
      volume={31}, number={6}, pages={82--88}, year={2016}
    }"""


class EmojaxSimulated(EmojaxBuilder):
    """Simulated conversations whose emotions, sarcasm and noise follow a known process.

    Every probability is known, so a model can be held against what is possible at all.
    """

    CORPUS = "simulated"


class EmojaxFeaturized(EmojaxBuilder):
    """Conversations that `emojax featurize` made from somebody's own recordings.

    Text features, functionals of log-mel and prosody, and features of the face; the corpus card
    beside them says how they were made and what was set aside.
    """

    CORPUS = "featurized"
