"""The corpora as TFDS builders, without TensorFlow and without a network."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emojax.data import builders
from emojax.data.readers import read_corpus
from emojax.data.simulator import SimulatorConfig
from emojax.data.splits import make_splits
from emojax.errors import ConfigError, DataError
from tests.data.conftest import SIGNATURE, make_conversation

CORPORA = ("featurized", "iemocap", "meld", "meld_text", "mosi", "simulated")
NAMES = tuple(f"emojax_{name}" for name in CORPORA)


def prepared(name: str, data_dir: Path, **options) -> tfds.core.DatasetBuilder:
    builder = tfds.builder(name, data_dir=data_dir, **options)
    builder.download_and_prepare()
    return builder


def test_all_are_registered_and_the_base_is_not():
    known = tfds.list_builders(with_community_datasets=False)
    assert {name for name in known if name.startswith("emojax")} == set(NAMES)


@given(length=st.integers(1, 6), seed=st.integers(0, 99), words=st.text(max_size=9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_encode_and_decode_are_inverse(same, length, seed, words):
    one = make_conversation(words or "c", length, seed, transcript=(words,) * length)
    features = builders.features(SIGNATURE)
    stored = features.serialize_example(features.encode_example(builders.encode(one)))
    same(builders.decode(features.deserialize_example_np(stored)), one)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("emojax_mosi", "data/mosi"),
        ("emojax_iemocap", "fixtures/iemocap_9tuple.pkl"),
        ("emojax_meld", "fixtures/meld_13tuple.pkl"),
    ],
)
def test_round_trip_is_exact(shared: Path, tmp_path: Path, same, name, place):
    source = shared / place
    builder = prepared(name, tmp_path, source=source)
    for split, conversations in make_splits(read_corpus(source)).items():
        stored = builder.as_data_source(split)
        assert len(stored) == len(conversations)
        for record, conversation in zip(stored, conversations, strict=True):
            same(builders.decode(record), conversation)


def test_the_simulated_corpus(tmp_path: Path):
    config = SimulatorConfig(train=5, validation=2, test=3)
    builder = prepared("emojax_simulated", tmp_path, source=config)
    assert [builder.info.splits[s].num_examples for s in ("train", "validation", "test")] == [
        5,
        2,
        3,
    ]
    metadata = builder.info.metadata
    assert metadata["split_rule"] == "official"
    assert [len(known["ids"]) for known in metadata["splits"].values()] == [5, 2, 3]


def test_info_tells_what_it_is(tmp_path: Path, write, meld_content):
    info = prepared("emojax_meld", tmp_path, source=write(meld_content)).info
    assert "television" in info.description
    assert "poria" in info.citation
    assert info.homepage.startswith("https://")
    assert info.file_format.value == "array_record"
    assert info.features["text"].shape == (None, 5)
    assert tuple(info.metadata["signature"]["widths"]) == (5, 4, 3)


def test_rules_and_files_do_not_collide(tmp_path: Path, write, iemocap_content):
    source = write(iemocap_content)
    options = [
        {},
        {"split_rule": "leave-one-session-out:1"},
        {"split_rule": "leave-one-session-out:2"},
        {"validation_fraction": 0.3},
        {"skip_bad": True},
    ]
    made = [prepared("emojax_iemocap", tmp_path, source=source, **each) for each in options]
    iemocap_content[2]["Ses01F_impro01"][0] ^= 1
    made.append(prepared("emojax_iemocap", tmp_path, source=write(iemocap_content)))
    assert len({builder.data_dir for builder in made}) == 6
    one = {each["id"].decode()[:5] for each in made[1].as_data_source("test")}
    two = {each["id"].decode()[:5] for each in made[2].as_data_source("test")}
    assert (one, two) == ({"Ses01"}, {"Ses02"})
    with pytest.raises(RuntimeError, match="prepared 6 times"):
        tfds.builder("emojax_iemocap", data_dir=tmp_path)
    config = made[2].builder_config.name
    again = builders.EmojaxIemocap(data_dir=tmp_path, config=config)
    assert again.data_dir == made[2].data_dir


def test_opening_what_is_prepared(tmp_path: Path, write, meld_content, same):
    made = prepared("emojax_meld", tmp_path, source=write(meld_content))
    for again in (
        tfds.builder("emojax_meld", data_dir=tmp_path),
        tfds.builder_from_directory(made.data_dir),
        pickle.loads(pickle.dumps(made)),
    ):
        assert again.info.metadata["layout"] == "MELD 10-tuple pickle"
        for a, b in zip(again.as_data_source("test"), made.as_data_source("test"), strict=True):
            same(builders.decode(a), builders.decode(b))


def test_errors_of_the_constructor(tmp_path: Path, write, meld_content):
    source = write(meld_content)
    with pytest.raises(DataError, match="not prepared here"):
        builders.EmojaxMeld(data_dir=tmp_path)
    with pytest.raises(DataError, match=r"holds meld .*emojax_meld"):
        builders.EmojaxMosi(data_dir=tmp_path, source=source)
    with pytest.raises(ConfigError, match="split rule"):
        builders.EmojaxMeld(data_dir=tmp_path, source=source, split_rule="mine")
    with pytest.raises(DataError, match="session"):
        builders.EmojaxMeld(data_dir=tmp_path, source=source, split_rule="leave-one-session-out:1")


OFFLINE = """
import sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"reached for the network: {event} {arguments}")

sys.addaudithook(watch)
import tensorflow_datasets as tfds
import emojax.data.builders
builder = tfds.builder("emojax_meld", data_dir=sys.argv[1], source=sys.argv[2])
builder.download_and_prepare()
again = tfds.builder_from_directory(builder.data_dir)
print(len(again.as_data_source("train")[0]["label"]), "tensorflow" in sys.modules)
"""


def test_no_tensorflow_and_no_network(tmp_path: Path, write, meld_content):
    source = write(meld_content)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, tmp_path, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{len(meld_content[2][0])} False"
