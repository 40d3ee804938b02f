"""The media simulator: what is seen and heard is what the truth says."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest

from emojax.cli import main
from emojax.data.align.series import mouth_opening
from emojax.data.media_simulator.config import PROCESS, MediaConfig
from emojax.data.media_simulator.face import draw_faces, poses
from emojax.data.media_simulator.files import COLUMNS, simulate_media
from emojax.data.media_simulator.scene import means, posterior, scene, syllable_rate
from emojax.data.media_simulator.spoil import frozen, noisy_frames, noisy_sound, tracks
from emojax.data.media_simulator.voice import speak
from emojax.errors import ConfigError
from emojax.types import MODALITIES

SMALL = MediaConfig(size=32, conversations=2)


def test_a_conversation_depends_on_seed_and_number_alone():
    one, more = scene(3, SMALL), scene(3, dataclasses.replace(SMALL, conversations=9, lag=(1, 2)))
    assert one.text == more.text
    np.testing.assert_array_equal(one.voice, more.voice)
    assert 1 <= more.lag <= 2
    assert one.text != scene(4, SMALL).text
    assert one.text != scene(3, dataclasses.replace(SMALL, seed=1)).text


def test_utterances_do_not_overlap_and_end_with_the_recording():
    for number in range(20):
        each = scene(number, SMALL)
        assert (each.start[1:] > each.end[:-1]).all()
        assert each.start[0] > 0
        assert each.end[-1] < each.seconds


def test_sarcastic_words_are_the_partners():
    drawn = [scene(number, SMALL) for number in range(60)]
    partner = np.array(PROCESS.partner)
    for each in drawn:
        expected = np.where(each.sarcastic, partner[each.emotion], each.emotion)
        np.testing.assert_array_equal(each.said, expected)
    rate = np.concatenate([each.sarcastic for each in drawn])
    assert rate.mean() == pytest.approx(PROCESS.sarcasm, abs=4 * math.sqrt(0.16 / len(rate)))


@pytest.mark.parametrize("of", [MODALITIES, ("text",), ("audio",), ("visual",), ("text", "visual")])
def test_the_posterior_is_that_of_an_enumeration(of):
    """Of a lone utterance: emotions and sarcasm by name, each probability written out."""
    process = dataclasses.replace(PROCESS, shortest=1, longest=1)
    config = dataclasses.replace(SMALL, process=process)
    for number in range(20):
        each = scene(number, config)
        joint = np.zeros((6, 2))
        for e, q in itertools.product(range(6), range(2)):
            words = process.partner[e] if q else e
            p = process.base_rate[e] * (process.sarcasm if q else 1 - process.sarcasm)
            p *= "text" not in of or each.plain[0] or words == each.said[0]
            for mean, value, modality in zip(
                means(config), (each.voice, each.face), MODALITIES[1:], strict=True
            ):
                p *= np.exp(-(modality in of) * np.square(value[0] - mean[e]).sum() / 2)
            joint[e, q] = p
        joint /= joint.sum()
        emotion, sarcastic = posterior(each, config, of)
        np.testing.assert_allclose(emotion[0], joint.sum(1), rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(sarcastic[0], joint[:, 1].sum(), rtol=1e-9)


def test_the_posterior_is_calibrated():
    drawn = [scene(number, SMALL) for number in range(300)]
    found = [posterior(each, SMALL) for each in drawn]
    sarcastic = np.concatenate([each.sarcastic for each in drawn])
    chance = np.concatenate([p for _, p in found])
    for low, high in ((0, 0.15), (0.15, 0.5), (0.5, 0.9), (0.9, 1.001)):
        here = (chance >= low) & (chance < high)
        deviation = math.sqrt((chance * (1 - chance))[here].sum()) / here.sum()
        assert sarcastic[here].mean() == pytest.approx(chance[here].mean(), abs=4 * deviation)
    right = np.concatenate(
        [p.argmax(1) == each.emotion for (p, _), each in zip(found, drawn, strict=True)]
    )
    sure = np.concatenate([p.max(1) for p, _ in found])
    assert right.mean() == pytest.approx(sure.mean(), abs=4 * 0.5 / math.sqrt(len(right)))


def test_pitch_loudness_and_rate_are_the_voices():
    each = scene(0, SMALL)
    high = dataclasses.replace(each, voice=each.voice + np.array([4.0, 2.0, 0.0]))
    low_sound, high_sound = (speak(s, 16000).sound for s in (each, high))
    for start, end in zip(each.start, each.end, strict=True):
        part = slice(int(start * 16000), int(end * 16000))
        loud = [20 * np.log10(x[part].std()) for x in (low_sound, high_sound)]
        assert loud[1] - loud[0] == pytest.approx(6.0, abs=0.5)
        pitch = [_pitch(x[part]) for x in (low_sound, high_sound)]
        assert 12 * np.log2(pitch[1] / pitch[0]) == pytest.approx(12.0, abs=2.5)
    assert (np.diff(syllable_rate(np.array([[0, 0, -1.0], [0, 0, 0], [0, 0, 1]]))) > 0).all()


def _pitch(sound: np.ndarray, rate: int = 16000) -> float:
    """Hz, from the highest peak of the power cepstrum of the whole."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)))) ** 2
    smooth = np.convolve(spectrum, np.ones(25) / 25, "same")
    cepstrum = np.fft.irfft(np.log(smooth + 1e-9))
    lags = slice(rate // 600, rate // 70)
    return rate / (lags.start + np.argmax(cepstrum[lags]))


def test_the_mouth_follows_the_voice_by_the_lag():
    config = dataclasses.replace(SMALL, lag=(0.48, 0.48))
    each = scene(0, config)
    speech = speak(each, config.rate)
    drawn = draw_faces(poses(each, speech, config.fps), config.size)
    mouth = mouth_opening(np.concatenate(list(drawn)))
    step = config.rate // config.fps
    hop = speech.sound[: len(mouth) * step].reshape(-1, step)
    loud = np.sqrt(np.square(hop).mean(1))

    def agreement(lag: int) -> float:
        return np.corrcoef(loud[: len(loud) - lag], mouth[lag:])[0, 1]

    best = max(range(40), key=agreement)
    assert abs(best - 12) <= 1
    assert agreement(best) > 0.5


def test_noise_has_the_level_it_says():
    config = dataclasses.replace(SMALL, sound_snr=10.0)
    each = scene(0, config)
    sound = speak(each, config.rate).sound
    noise = noisy_sound(sound, each, config) - sound
    assert 20 * np.log10(sound.std() / noise.std()) == pytest.approx(10, abs=0.2)
    bursts = noisy_sound(sound, each, dataclasses.replace(SMALL, bursts=0.3)) - sound
    assert (bursts != 0).mean() == pytest.approx(0.3, abs=0.15)
    parts = [np.full((40, 32, 32, 3), 128, np.uint8), np.zeros((500, 32, 32, 3), np.uint8)]
    parts[0][:, :16] = 64
    first = next(noisy_frames(parts, each, dataclasses.replace(SMALL, frame_snr=6.0)))
    noise = first.astype(float) - parts[0]
    assert 20 * np.log10(parts[0].std() / noise.std()) == pytest.approx(6, abs=0.2)


def test_frozen_frames_repeat_the_one_before_across_parts():
    config = dataclasses.replace(SMALL, frozen=0.4)
    each = scene(0, config)
    length = int(each.seconds * config.fps)
    still = frozen(length, each, config)
    assert still.mean() == pytest.approx(0.4, abs=0.2)
    numbers = np.arange(length) % 251
    whole = np.broadcast_to(numbers[:, None, None, None], (length, 2, 2, 3)).astype(np.uint8)
    parts = np.split(whole, range(7, length, 7))
    found = np.concatenate(list(noisy_frames(parts, each, config)))[:, 0, 0, 0]
    for k in range(1, length):
        assert found[k] == (found[k - 1] if still[k] else numbers[k])


def test_tracks_are_missing_as_often_as_it_says():
    config = dataclasses.replace(SMALL, missing=(0.3, 0.2))
    found = np.array([tracks(scene(k, config), config) for k in range(200)])
    assert found.any(1).all()
    np.testing.assert_allclose(1 - found.mean(0), (0.3, 0.2), atol=0.12)


def test_a_corpus_is_written_the_same_twice_and_goes_on(tmp_path):
    av = pytest.importorskip("av", reason="PyAV, which writes the frames, is not installed")
    config = dataclasses.replace(SMALL, conversations=3, missing=(0.3, 0.3), lag=(0.2, 1.0))
    path = simulate_media(config, tmp_path / "a")
    simulate_media(config, tmp_path / "b")
    files = sorted(each.name for each in (tmp_path / "a").iterdir())
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    lost = next(iter((tmp_path / "b").glob("scene_*")))
    lost.unlink()
    kept = {each: each.stat().st_mtime_ns for each in (tmp_path / "b").glob("scene_*")}
    simulate_media(config, tmp_path / "b")
    assert lost.read_bytes() == (tmp_path / "a" / lost.name).read_bytes()
    assert all(each.stat().st_mtime_ns == when for each, when in kept.items())

    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert tuple(rows[0]) == COLUMNS
    truth = json.loads((tmp_path / "a" / "truth.json").read_text())
    for each in truth:
        mine = [row for row in rows if row["dialogue"] == each["dialogue"]]
        assert len(mine) == len(each["sarcastic"])
        with av.open(str(path.parent / mine[0]["media"])) as media:
            assert bool(media.streams.video) == each["frames"]
            assert bool(media.streams.audio) or not each["sound"]
            ends = [float(row["end"]) for row in mine]
            if each["frames"]:
                times = [frame.time for frame in media.decode(video=0)]
                assert times[-1] >= max(ends) - 0.05
    with pytest.raises(ConfigError, match="other settings"):
        simulate_media(dataclasses.replace(config, seed=1), tmp_path / "b")


def test_the_command(tmp_path, capsys):
    out = tmp_path / "media"
    more = ["--size", "32", "--conversations", "1"]
    assert main(["simulate-media", "--out", str(out), *more]) == 0
    assert (out / "manifest.csv").is_file()
    assert main(["simulate-media", "--out", str(out), *more, "--lag", "3", "1"]) == 1
    assert "lag must be two seconds in order" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("mine")
    assert main(["simulate-media", "--out", str(tmp_path), *more]) == 1
    assert "holds other files" in capsys.readouterr().err
