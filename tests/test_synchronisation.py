"""The study of lags: its tables say what is in the records, its corpora are read as files are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emojax.data.media_simulator.config import MediaConfig
from emojax.data.readers import read_corpus
from experiments import synchronisation
from experiments.recordings import GRID, features, record, write_pickle
from experiments.synchronisation import LAGS, METHODS, SNRS, WAYS, lag_table, lags_of, score_table


@pytest.fixture(scope="module")
def recordings():
    config = MediaConfig(seed=5, size=32, lag=(0.5, 1.5), sound_snr=10.0, frame_snr=10.0)
    return [record(number, config) for number in range(3)]


def test_the_estimates_are_those_of_the_recordings(recordings):
    true = [each.scene.lag for each in recordings]
    assert lags_of("true lag", recordings) == true
    assert lags_of("no correction", recordings) == [0.0] * 3
    for method in METHODS:
        np.testing.assert_allclose(lags_of(method, recordings), true, atol=0.04)


def test_faces_moved_back_by_the_lag_are_nearly_those_without_one(recordings):
    late = recordings[0]
    config = dataclasses.replace(late.config, lag=(0.0, 0.0))
    prompt = record(0, config)
    wanted, corrected, left = (
        features(*each)[1][:, : GRID**2]
        for each in ((prompt, 0.0), (late, late.scene.lag), (late, 0.0))
    )
    assert np.abs(corrected - wanted).mean() < 0.5 * np.abs(left - wanted).mean()


def test_corpora_are_read(recordings, tmp_path):
    path = write_pickle(tmp_path / "corpus.pkl", recordings, [0.0] * 3, test=1)
    corpus = read_corpus(path)
    assert corpus.signature.widths == (1, 7, 2 * GRID**2)
    (test,) = corpus.splits["test"]
    scene = recordings[2].scene
    assert test.transcript == scene.text
    np.testing.assert_array_equal(test.label, scene.emotion)
    np.testing.assert_array_equal(test.visual, features(recordings[2], 0.0)[1])


def test_the_lag_table_counts_within_a_frame():
    records = [
        {"seed": seed, "lag": lag, "snr": snr, "method": method, "errors": [0.4, -1.0, 1.2, seed]}
        for seed in range(2)
        for lag in LAGS
        for snr in SNRS
        for method in METHODS
    ]
    sheet = lag_table(records, 2)
    assert len(sheet.rows) == len(SNRS) * len(METHODS)
    assert set(sheet.rows[0][2:7]) == {"75.0 ± 0.0"}
    assert sheet.rows[0][7:] == ["75.0", "1.00"]


def test_the_score_table_says_what_came_back():
    values = dict(zip(WAYS, (50.0, 58.0, 59.0, 60.0, 51.0, 52.0), strict=True))
    found = {
        way: [
            {
                "splits": {
                    "test": {m: {"value": (v + seed) / 100} for m in ("weighted_f1", "accuracy")}
                }
            }
            for seed in (-1, 1)
        ]
        for way, v in values.items()
    }
    rows = {row[0]: row[1:] for row in score_table(found).rows}
    assert rows["no correction"][0] == "50.0 ± 1.4"
    assert rows["soft_dtw"] == ["59.0 ± 1.4", "59.0 ± 1.4", "+9.0 ± 0.0", "90 %"]
    assert rows["true lag"][-1] == "100 %"


def test_errors_of_a_seed_are_small_and_of_every_kind(monkeypatch):
    monkeypatch.setattr(synchronisation, "LAGS", (0.5,))
    monkeypatch.setattr(synchronisation, "SNRS", (20.0,))
    monkeypatch.setattr(synchronisation, "EACH", 1)
    found = list(synchronisation._errors(0))
    assert [each["method"] for each in found] == list(METHODS)
    assert all(abs(error) <= 1 for each in found for error in each["errors"])
