"""The end-to-end study: gradients reach every encoder, hidden signals nobody, kills cost little."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from emojax.data.media_simulator.config import PROCESS, MediaConfig
from emojax.nn.encoders.audio import AudioConfig
from emojax.train.objective import objective
from emojax.types import MODALITIES
from experiments.end_to_end import __main__ as program
from experiments.end_to_end import corpus, table, train
from experiments.end_to_end.corpus import Recordings
from experiments.end_to_end.network import Sizes
from experiments.store import Result, Store

SHORT = dataclasses.replace(PROCESS, shortest=2, longest=3, mean_length=2.0)
TINY = Recordings(
    MediaConfig(seed=3, size=32, sound_snr=10.0, frame_snr=10.0, process=SHORT),
    counts=(3, 2, 2), seconds=0.5, pictures=2, words=8,
)  # fmt: skip
SIZES = Sizes(
    features=8, face=(2, 2, 2),
    audio=AudioConfig(channels=(2, 2), norm="layer", recurrent=2, features=4, heads=1),
)  # fmt: skip
SETTINGS = (*train.SETTINGS, "model.width=8", "data.batch_utterances=24", "train.epochs=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("end_to_end")


@pytest.fixture(scope="module")
def found(folder):
    return corpus.measured(TINY, folder)


@pytest.fixture(scope="module")
def raw(found):
    return corpus.raw(TINY, found)


def trainer(raw, modalities=MODALITIES):
    splits, shapes = raw
    config = train.config_of(train.Variant(True, modalities), 0, SETTINGS)
    return train.Trainer(config, splits, corpus.signature(TINY, splits), shapes, SIZES)


def started(one):
    batch = next(one.batches["train"].one_epoch()).batch
    state = one.initial(jax.random.key(0), batch, one.statistics)
    variables = {"params": state.params, "statistics": state.statistics}
    return jax.tree.map(jnp.asarray, batch), variables


@pytest.fixture(scope="module")
def trimodal(raw):
    one = trainer(raw)
    return one, *started(one)


def test_signals_lie_where_the_shapes_say(found, raw):
    splits, shapes = raw
    assert corpus.signature(TINY, splits).widths == shapes.widths
    each = splits["test"][1]
    scene = TINY.scenes()[-1]
    assert each.transcript == scene.text
    np.testing.assert_array_equal(each.label, scene.emotion)
    np.testing.assert_array_equal(each.audio[:, 0], np.ceil(found["count"][-len(each) :] / 2))
    shown = each.visual.reshape(len(each), 2, 32, 32)
    grey = found["pictures"][-len(each) :].mean(-1)
    np.testing.assert_allclose((shown + 1) * 127.5, grey, atol=1e-4)
    known = corpus.vocabulary(TINY.scenes()[:3])
    wanted = [known.get(word, corpus.UNKNOWN) for word in corpus.words(scene.text[0])][:8]
    assert each.text[0].tolist() == wanted + [0] * (8 - len(wanted))


def test_what_is_measured_is_read_again_and_not_made_again(found, folder, monkeypatch):
    monkeypatch.setattr(corpus, "_recorded", None)
    again = corpus.measured(TINY, folder)
    assert again.keys() == found.keys()
    for name, x in found.items():
        np.testing.assert_array_equal(again[name], x)


def test_validation_and_test_recordings_set_no_scale_and_no_word(found, raw):
    """Other sounds of theirs leave the training conversations as they are."""
    trained = sum(map(len, TINY.scenes()[:3]))
    late = np.arange(len(found["count"])) >= trained
    other = dict(found) | {
        name: np.where(late[:, None, None], 2 * found[name] + 1, found[name])
        for name in ("mel", "prosody")
    }
    changed, _ = corpus.raw(TINY, other)
    for a, b in zip(raw[0]["train"], changed["train"], strict=True):
        np.testing.assert_array_equal(a.audio, b.audio)
    assert (raw[0]["test"][0].audio != changed["test"][0].audio).any()


def test_the_gradient_of_the_decision_reaches_every_encoder(trimodal):
    one, batch, variables = trimodal
    config = dataclasses.replace(one.config.train, auxiliary_weight=0.0)

    def loss(params):
        output = one.model.apply({**variables, "params": params}, batch)
        return objective(output, jnp.asarray(batch.label), config, None)

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    for encoder in ("text_encoder", "audio_encoder", "face_encoder"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient[encoder]):
            # A bias in front of a softmax over frames or words moves nothing.
            if jax.tree_util.keystr(path).endswith(("['key']['bias']", "['score']['bias']")):
                continue
            if "missing" in jax.tree_util.keystr(path):  # no picture is
                continue
            assert np.abs(leaf).max() > 0, (encoder, jax.tree_util.keystr(path))


@pytest.mark.parametrize("modality", MODALITIES)
def test_what_a_variant_may_not_see_has_no_influence(raw, modality):
    one = trainer(raw, (modality,))
    batch, variables = started(one)
    encoders = dict(zip(MODALITIES, ("text_encoder", "audio_encoder", "face_encoder"), strict=True))
    assert {m for m, name in encoders.items() if name in variables["params"]} == {modality}

    @jax.jit
    def said(batch):
        return one.model.apply(variables, batch).logits

    hidden = {m: np.full_like(getattr(batch, m), np.nan) for m in MODALITIES if m != modality}
    np.testing.assert_array_equal(said(batch), said(dataclasses.replace(batch, **hidden)))
    shown = dataclasses.replace(batch, **{modality: getattr(batch, modality)[:, ::-1]})
    assert (np.asarray(said(batch)) != np.asarray(said(shown))).any()


def test_signals_that_are_missing_have_no_influence(trimodal):
    """Of the network that may see all of them."""
    one, batch, variables = trimodal
    there = batch.present & (np.arange(24) % 2 == 0)[None, :, None]
    batch = dataclasses.replace(batch, present=there)
    strange = {
        m: np.where(there[:, :, i, None], getattr(batch, m), np.float32(7))
        for i, m in enumerate(MODALITIES)
    }

    @jax.jit
    def said(batch):
        return one.model.apply(variables, batch).logits

    np.testing.assert_array_equal(said(batch), said(dataclasses.replace(batch, **strange)))


@pytest.fixture
def tiny(monkeypatch):
    """The whole study, with two of its variants."""
    names = ("text, end to end", "trimodal, pooled features")
    monkeypatch.setattr(train, "VARIANTS", {name: train.VARIANTS[name] for name in names})
    monkeypatch.setattr(table, "VARIANTS", train.VARIANTS)
    monkeypatch.setattr(table, "REFERENCE", names[0])
    monkeypatch.setattr(train, "RECORDINGS", TINY)
    monkeypatch.setattr(train, "SIZES", SIZES)
    original = train.config_of
    monkeypatch.setattr(train, "config_of", lambda variant, seed: original(variant, seed, SETTINGS))
    monkeypatch.setattr("experiments.programs.start", lambda pool: None)


def test_a_study_goes_on_where_it_was_killed(tiny, found, folder, tmp_path, monkeypatch, capsys):
    (measured,) = folder.glob("*.npz")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for out in (whole, cut):
        out.mkdir()
        (out / measured.name).symlink_to(measured)
    assert program.main(["train", "--out", str(whole), "--seeds", "2"]) == 0
    text = (whole / program.RESULTS).read_text()
    assert len(text.splitlines()) == 4
    lines = text.splitlines(keepends=True)
    (cut / program.RESULTS).write_text("".join(lines[:2]) + lines[2][:100])
    assert program.main(["train", "--out", str(cut), "--seeds", "2"]) == 0
    assert (cut / "table.md").read_text() == (whole / "table.md").read_text()
    assert (cut / "weighted_f1.png").read_bytes() == (whole / "weighted_f1.png").read_bytes()
    again = Store(cut / program.RESULTS).results
    for a, b in zip(again, Store(whole / program.RESULTS).results, strict=True):
        assert (a.variant, a.seed, a.predicted, a.history) == (
            b.variant, b.seed, b.predicted, b.history,
        )  # fmt: skip
    monkeypatch.setattr(train, "Trainer", None)  # nobody trains what is there
    assert program.main(["train", "--out", str(cut), "--seeds", "2"]) == 0
    capsys.readouterr()
    assert program.main(["table", "--out", str(tmp_path / "nowhere")]) == 1
    assert "no results" in capsys.readouterr().err


def made(variant: str, seed: int, right: int) -> Result:
    """Of ten conversations of ten utterances, the first `right` of each told right."""
    label = {str(d): [0] * 10 for d in range(10)}
    said = {d: [0] * right + [1] * (10 - right) for d in label}
    scores = {"accuracy": right / 10, "weighted_f1": right / 10 + seed / 100, "nll": 0.5}
    scores |= dict.fromkeys(("macro_f1", "brier", "ece"), 0.1)
    return Result(
        variant, seed, "", "same", "", {"test": scores}, 1.0, 1234, label, said, {},
    )  # fmt: skip


def test_the_table_says_what_the_results_say():
    wanted = dict(zip(train.VARIANTS, (9, 6, 5, 4, 8), strict=True))
    results = [made(name, seed, n) for seed, (name, n) in itertools.product((0, 2), wanted.items())]
    known = {
        f"exact posterior, {name}": {"weighted_f1": 0.95, "accuracy": 0.951, "nll": 0.2}
        for name in ("all modalities", *train.NAMES.values())
    } | {"commonest emotion": {"weighted_f1": 0.1, "accuracy": 0.2, "nll": 1.7}}
    rows = table.rows_of(results)
    found = table.sheet(rows, known)
    assert [row[0] for row in found.rows] == [*train.VARIANTS, *known]
    first, text, *_ = found.rows
    assert first[1:7] == ["2", "1,234", "91.0 ± 1.4", "90.0 ± 0.0", "0.500 ± 0.000", "reference"]
    assert text[6] == "-30.0 [-30.0, -30.0]"
    assert found.rows[len(wanted)][3:6] == ["95.0", "95.1", "0.200"]
    assert all(len(row) == len(found.header) for row in found.rows)
    axes = table.figure(rows, known).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == list(train.VARIANTS)[::-1]


def test_limits_are_the_simulators():
    """Who knows everything is ahead of who knows one modality, and those of the guess."""
    many = dataclasses.replace(TINY, counts=(60, 1, 120))
    known = table.limits(many)
    best = known["exact posterior, all modalities"]
    for name in ("text", "sound", "pictures"):
        one = known[f"exact posterior, {name}"]
        assert best["nll"] < one["nll"] < known["commonest emotion"]["nll"]
    train_labels = np.concatenate([s.emotion for s in many.scenes()[:60]])
    test_labels = np.concatenate([s.emotion for s in many.scenes()[61:]])
    commonest = np.bincount(train_labels).argmax()
    assert known["commonest emotion"]["accuracy"] == pytest.approx(
        (test_labels == commonest).mean(), abs=1e-6
    )
