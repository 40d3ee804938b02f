"""A corpus whose words tell the emotion, and an encoder of two layers that knows them."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emojax.config import FinetuneConfig, from_dict, override
from tests.goldens.make_bert import FOLDER

WORDS = {"joy": "it was a good day", "sadness": "it was not", "neutral": "who said that"}
SIZES = {"train": 32, "dev": 4, "test": 5}


@pytest.fixture(scope="session")
def meld(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meld")
    for number, (split, count) in enumerate(SIZES.items()):
        generator = np.random.default_rng(number)
        with (folder / f"{split}_sent_emo.csv").open("w", encoding="utf-8", newline="") as file:
            write = csv.writer(file).writerow
            write(["Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID"])
            for dialogue in range(count):
                for utterance in range(int(generator.integers(2, 7))):
                    emotion = generator.choice(list(WORDS))
                    extra = " i will say it again" * int(generator.integers(0, 3))
                    speaker = generator.choice(["Ross", "Monica"])
                    write([WORDS[emotion] + extra, speaker, emotion, dialogue, utterance])
    return folder


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """The golden BERT without its upper layers."""
    folder = Path(shutil.copytree(FOLDER, tmp_path_factory.mktemp("encoder") / "small"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    return folder


@pytest.fixture(scope="session")
def settings(meld: Path, small: Path) -> list[str]:
    return [
        f"data.source={meld}", f"text.encoder={small}", "data.buckets=[16]", "data.batch=8",
        "text.turns=2", "text.tokens=24", "train.epochs=2", "train.learning_rate=0.01",
        "train.head_learning_rate=0.02",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def config(settings):
    """A function of further assignments."""

    def make(*changes: str) -> FinetuneConfig:
        return from_dict(override({}, [*settings, *changes]), FinetuneConfig)

    return make
