"""Pictures that are late are taken later."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytest.importorskip("av", reason="the extra media is not installed")
pytest.importorskip("cv2", reason="the extra media is not installed")

from emojax.data.media_simulator.config import MediaConfig
from emojax.data.media_simulator.files import simulate_media
from emojax.featurize.run import featurize
from emojax.featurize.synchrony import lag_of
from emojax.featurize.worker import Settings, measure


@pytest.fixture(scope="module")
def late(tmp_path_factory) -> tuple[Path, float, float, float]:
    """A recording, its lag, and an utterance's start and end."""
    folder = tmp_path_factory.mktemp("late")
    config = MediaConfig(
        conversations=1, size=48, lag=(0.6, 1.2), sound_snr=10.0, frame_snr=10.0, seed=3
    )
    manifest = simulate_media(config, folder)
    (truth,) = json.loads((folder / "truth.json").read_text())
    row = list(csv.DictReader(manifest.read_text().splitlines()))[2]
    return folder / row["media"], truth["lag"], float(row["start"]), float(row["end"])


@pytest.mark.parametrize("method", ["correlation", "soft_dtw"])
def test_the_lag_of_a_file_is_found(late, method):
    path, lag, _, _ = late
    assert lag_of(path, "whole", method) == pytest.approx(lag, abs=0.04)


def test_the_pictures_of_an_utterance_are_taken_later(late):
    path, _, start, end = late
    found = lag_of(path, "whole", "correlation")
    aligned = measure(path, start, end, Settings(faces="whole", align="correlation"), None)
    plain = measure(path, start, end, Settings(faces="whole"), None)
    later = measure(path, start + found, end + found, Settings(faces="whole"), None)
    assert (aligned["lag"], plain["lag"]) == (found, 0.0)
    assert aligned["audio"] == plain["audio"]
    assert aligned["visual"] == later["visual"] != plain["visual"]


def test_the_card_says_what_was_taken_later(late, tmp_path):
    path, lag, _, _ = late
    manifest = path.parent / "manifest.csv"
    made = featurize(manifest, tmp_path, Settings(faces="whole", align="correlation"), workers=1)
    assert made.card["lags"] == {path.name: pytest.approx(lag, abs=0.04)}
    assert f"1 of 1 recordings were taken {made.card['lags'][path.name]:+.2f} to" in (
        tmp_path / "card.md"
    ).read_text(encoding="utf-8")
    again = featurize(manifest, tmp_path, Settings(faces="whole", align="correlation"), workers=1)
    assert (again.measured, again.card) == (0, made.card)


def test_where_there_is_nothing_to_compare_there_is_no_lag(late, tmp_path):
    path, _, _, _ = late
    assert lag_of(tmp_path / "none.mkv", "whole", "correlation") == 0
    broken = tmp_path / "broken.mkv"
    broken.write_bytes(path.read_bytes()[:500])
    assert lag_of(broken, "whole", "correlation") == 0
    deaf = MediaConfig(conversations=1, size=32, missing=(1.0, 0.0))
    simulate_media(deaf, tmp_path / "deaf")
    assert lag_of(tmp_path / "deaf" / "scene_0000.mkv", "whole", "correlation") == 0
