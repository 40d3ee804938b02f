"""The EmoDB study: who is held out of what, and that it tells on no one."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.io import wavfile
from sklearn.metrics import balanced_accuracy_score

from emojax.errors import DataError
from emojax.nn.encoders.audio import AudioConfig
from experiments.emodb import corpus, hearing, program, search, table
from experiments.emodb.corpus import EMOTIONS, SPEAKERS
from experiments.emodb.settings import Settings
from experiments.emodb.train import RESULTS, Study, lines_of, run

NAMES = [
    f"{speaker}a0{i}{letter}a" for speaker in SPEAKERS for i, letter in enumerate("WLEAFTN", 1)
]
SIZE = 2000


@pytest.fixture(scope="module")
def recordings():
    """Every emotion of every speaker, a tone of the emotion's own with some noise."""
    draw = np.random.default_rng(0)
    time = np.arange(SIZE) / corpus.RATE
    tones = np.stack([np.sin(2 * np.pi * (100 + 40 * i) * time) for i in range(len(EMOTIONS))])
    sound = 5000 * np.tile(tones, (len(SPEAKERS), 1)) + 30 * draw.normal(size=(len(NAMES), SIZE))
    length = draw.integers(SIZE // 2, SIZE, len(NAMES)).astype(np.int32)
    sound *= np.arange(SIZE) < length[:, None]
    return corpus._corpus(NAMES, sound.astype(np.int16), length)


def test_a_folder_is_read_by_its_names(tmp_path):
    for name in ("03a01Fa", "16b10Wb"):
        wavfile.write(tmp_path / f"{name}.wav", 16_000, np.array([5, -3, 2, 0, 0], np.int16))
    found = corpus.read(tmp_path)
    assert found.length.tolist() == [3, 3]
    assert found.samples.tolist() == [[5, -3, 2]] * 2
    assert [SPEAKERS[i] for i in found.speaker] == ["03", "16"]
    assert [EMOTIONS[i] for i in found.label] == ["happiness", "anger"]
    corpus.save(found, tmp_path / "all.npz")
    again = corpus.read(tmp_path / "all.npz")
    assert again.names == found.names
    assert (again.samples == found.samples).all()
    wavfile.write(tmp_path / "04a01Fa.wav", 16_000, np.array([1], np.int16))
    with pytest.raises(DataError, match="04a01Fa"):
        corpus.read(tmp_path)
    with pytest.raises(DataError, match="no wav files"):
        corpus.read(tmp_path / "nowhere")


def test_recall_is_scikit_learns():
    truth, said = np.random.default_rng(0).integers(0, 7, (2, 200))
    found = search.recall(zip(truth.tolist(), said.tolist(), strict=True))
    assert found == pytest.approx(balanced_accuracy_score(truth, said))


def test_pairs_judge_every_speaker_on_all_others():
    jobs = search.search("middle")
    assert len(jobs) == 45
    assert {frozenset(j.held) for j in jobs} == set(
        map(frozenset, itertools.combinations(SPEAKERS, 2))
    )
    assert collections.Counter(s for j in jobs for s in j.held) == dict.fromkeys(SPEAKERS, 9)
    assert len({j.seed for j in jobs}) == 45


def searched(seed: int) -> list[dict]:
    """Lines of a search of which all decisions are drawn."""
    draw = np.random.default_rng(seed)
    lines = []
    for name in ("middle", "heavy"):
        for job in search.search(name):
            names = [n for n in NAMES if n[:2] in job.held]
            label = [i % 7 for i in range(len(names))]
            said = draw.integers(0, 7, len(names)).tolist()
            lines.append({**dataclasses.asdict(job), "names": names, "label": label, "both": said})
    return lines


def test_a_choice_does_not_depend_on_the_test_speaker():
    lines = searched(0)
    _, reached = search.choose(lines)
    for speaker in SPEAKERS:
        # All that is known of the speaker turned into its opposite.
        other = [
            {
                **line,
                "both": [
                    6 - said if name[:2] == speaker else said
                    for name, said in zip(line["names"], line["both"], strict=True)
                ],
            }
            for line in lines
        ]
        _, changed = search.choose(other)
        assert changed[speaker] == reached[speaker]
        assert changed != reached


def test_candidates_that_time_cut_short_do_not_stand():
    lines = searched(0)
    chosen, reached = search.choose(lines[:-1])
    assert set(chosen.values()) == {"middle"}
    assert set(reached["03"]) == {"middle"}
    assert search.choose([])[0] == dict.fromkeys(SPEAKERS, "middle")


TINY = AudioConfig(channels=(2, 2), recurrent=2, features=4, heads=1)


def test_nothing_of_a_speaker_who_is_held_out_is_used(recordings):
    """Other sounds of the same speaker lead to the same parameters, to the bit."""
    study = program.Program(TINY, len(EMOTIONS), batch=4, at_once=1)
    sounds = hearing.hear(recordings.samples, recordings.length, recordings.label)
    held = jnp.asarray(recordings.speaker == 3)
    weight = jnp.where(held, 0.0, 1.0)
    settings = Settings(*map(np.float32, Settings()))
    lanes = jax.tree.map(lambda x: jnp.asarray(x)[None], program.Lane(7, 4, weight, settings))

    def trained(sounds):
        state = study.train(study.start(lanes, sounds), lanes, sounds, 4)
        return study.ask(state, lanes, np.zeros((1, 1), np.int32), sounds)

    def other(x):
        return jnp.where(held.reshape(-1, *[1] * (x.ndim - 1)), 3 * x + 1, x)

    strange = sounds._replace(mel=other(sounds.mel), prosody=other(sounds.prosody))
    np.testing.assert_array_equal(trained(sounds), trained(strange))
    shifted = sounds._replace(mel=jnp.where(held[:, None, None], sounds.mel, sounds.mel + 9.0))
    assert (np.asarray(trained(sounds)) != trained(shifted)).any()


def test_a_study_goes_on_where_it_was_killed(recordings, tmp_path, monkeypatch):
    """The whole of it, tiny: fixed settings, search, choice, final; then a cut-off file."""
    monkeypatch.setattr("experiments.emodb.train.ENCODER", TINY)
    said: list[str] = []

    def study():
        return Study(
            recordings, tmp_path, steps=1, batch=2, width=115, at_once=115, segment=1,
            deadline=np.inf, say=said.append,
        )  # fmt: skip

    run(study(), seeds=range(1), candidates=["middle"])
    lines = lines_of(tmp_path / RESULTS)
    counts = collections.Counter(line["stage"] for line in lines)
    assert counts == {"fixed": 10, "search": 45, "final": 110}
    for line in lines:
        assert sorted({n[:2] for n in line["names"]}) == sorted(line["held"])
    path = tmp_path / RESULTS
    whole = path.read_text()
    path.write_text(whole[: len(whole) * 2 // 3])
    run(study(), seeds=range(1), candidates=["middle"])
    again = lines_of(path)
    assert len(again) == len(lines)
    assert {json.dumps(line) for line in again} == {json.dumps(line) for line in lines}
    sheets = table.sheets(again, [])
    assert [len(sheet.rows) for sheet in sheets] == [8, 1, 1]
    assert "EmoDB" in sheets[0].markdown()
