"""A corpus of recordings: everything accounted for, nothing done twice, the same to the bit."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emojax.cli import main
from emojax.data.prepare import open_prepared, prepare
from emojax.data.readers import read_corpus
from emojax.errors import ConfigError, DataError
from emojax.featurize import measures, run
from emojax.featurize.pool import measured
from emojax.featurize.run import JOURNAL, featurize
from emojax.featurize.worker import Settings
from tests.featurize.recordings import record, row, tone, write_manifest
from tests.goldens.make_bert import FOLDER as BERT


def files(out: Path) -> dict[str, bytes]:
    """All that is promised to be the same."""
    names = ["utterances.jsonl", "set_aside.csv", "card.json", "card.md"]
    records = sorted(out.glob("emojax_featurized/**/*.array_record*"))
    assert len(records) == 3
    return {path.name: path.read_bytes() for path in [*(out / name for name in names), *records]}


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def copied(manifest: Path, to: Path) -> Path:
    return Path(shutil.copytree(manifest.parent, to)) / manifest.name


def test_what_is_there_is_read_and_the_rest_is_missing(made):
    corpus = read_corpus(made.folder)
    assert corpus.signature.labels == ("glad", "sad")
    assert corpus.signature.speakers == ("Ann", "Bob")
    assert corpus.signature.widths == (512, measures.AUDIO_WIDTH, measures.PLAIN_WIDTH)
    found = {each.id: each for split in corpus.splits.values() for each in split}
    present = {name: each.present.tolist() for name, each in found.items()}
    assert present == {
        # text, audio, visual
        "one": [[True, True, True]] * 3 + [[True, False, False]],
        "two": [[True, True, False]],
        "three": [[True, False, True], [True, True, False]],
        "four": [[True, False, False]] * 2,
        "five": [[True, False, False]],
    }
    one = found["one"]
    assert one.label.tolist() == [0, 1, -1, 0]
    assert one.speaker.tolist() == [0, 1, 0, 0]
    assert one.transcript[1] == 'Oh, "no".'
    assert np.abs(one.audio[:3]).sum() > 0
    np.testing.assert_array_equal(one.audio[3], 0)
    assert sum(map(len, found.values())) == 10


def test_every_clip_set_aside_is_listed_with_its_reason(made):
    with (made.folder / "set_aside.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    reasons = {(r["dialogue"], r["utterance"], r["modality"]): r["reason"] for r in rows}
    for key, start in {
        ("one", "3", "audio"): "mistimed: the recording is 5.",
        ("one", "3", "visual"): "mistimed: the recording is 5.",
        ("two", "0", "visual"): "no face in any of 5 pictures",
        ("two", "1", "audio"): "too short: 0.020 s",
        ("three", "2", "audio"): "silent",
        ("four", "0", "audio"): "cannot be decoded",
        ("four", "1", "audio"): "there is no such file",
        ("five", "0", "visual"): "cannot be decoded",
    }.items():
        assert reasons[key].startswith(start), key
    # Of every utterance and modality: read, set aside, or no track of it.
    for line in map(json.loads, (made.folder / "utterances.jsonl").read_text().splitlines()[1:]):
        for modality in ("audio", "visual"):
            ways = [
                line[modality] is not None,
                (line["dialogue"], str(line["number"]), modality) in reasons,
                modality in line["absent"],
            ]
            assert sum(ways) == 1, (line["dialogue"], line["number"], modality)
    assert [r["utterance_kept"] for r in rows if r["dialogue"] == "two"] == ["yes", "no", "no"]
    card = made.card
    assert (card["utterances"], card["left_out"]) == (12, 2)
    assert card["without_track"] == {"audio": 1, "visual": 2}
    assert sum(card["set_aside"]["audio"].values()) == 6
    assert card["faces"]["utterances_without_face"] == 1


def test_the_same_recordings_give_the_same_bytes_wherever_they_lie(made, manifest, tmp_path: Path):
    other = featurize(copied(manifest, tmp_path / "elsewhere"), tmp_path / "out", workers=1)
    assert files(other.folder) == files(made.folder)
    again = featurize(tmp_path / "elsewhere" / manifest.name, tmp_path / "out", workers=1)
    assert (other.measured, again.measured) == (12, 0)
    assert files(again.folder) == files(made.folder)


def test_a_killed_run_goes_on_and_redoes_and_loses_nothing(made, manifest, tmp_path: Path):
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "emojax", "featurize", str(manifest), "--out", str(out),
        "--workers", "1",
    ]  # fmt: skip
    journal = out / JOURNAL
    with subprocess.Popen(command, start_new_session=True) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if journal.exists() and journal.read_bytes().count(b"\n") > 4:
                break
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task")
        workers = [
            int(pid)
            for each in (children.glob("*/children") if children.is_dir() else ())
            for pid in each.read_text().split()
        ]
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # Workers end with the process that started them, once they have no one to answer to.
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
    before = journal.read_bytes()
    done = before.count(b"\n") - 1
    assert 4 <= done < 12
    # As if the kill had come in the middle of a line.
    journal.write_bytes(before + b'{"key": "half a li')
    made_again = featurize(manifest, out, workers=1)
    assert made_again.measured == 12 - done
    assert files(out) == files(made.folder)
    assert not journal.exists()


def test_new_utterances_alone_are_measured(made, manifest, tmp_path: Path):
    out = Path(shutil.copytree(made.folder, tmp_path / "out"))
    path = copied(manifest, tmp_path / "grown")
    record(path.parent / "missing.wav", tone(2))
    with path.open("a") as file:
        file.write('one,Ann,0.5,1.5,"And more.",glad,c.wav\r\n')
    grown = featurize(path, out, workers=1)
    assert grown.measured == 2  # the new one, and the recording that was missing
    assert open_prepared(out).path == grown.corpus.path  # the older one is gone
    assert grown.card["present"]["audio"] == made.card["present"]["audio"] + 2


def test_other_settings_are_refused_before_anything_is_done(made, manifest):
    before = files(made.folder)
    with pytest.raises(DataError, match=r"other settings or versions \(settings\)"):
        featurize(manifest, made.folder, Settings(rate=2.0))
    assert files(made.folder) == before
    assert not (made.folder / JOURNAL).exists()
    with pytest.raises(ConfigError, match="fps must be"):
        featurize(manifest, made.folder, Settings(rate=float("nan")))
    with pytest.raises(DataError, match="cannot be read"):
        featurize(manifest, made.folder, Settings(vision="/nowhere.safetensors"))


def test_text_can_be_that_of_an_encoder_without_measuring_again(made, manifest, tmp_path: Path):
    pytest.importorskip("tokenizers")
    out = Path(shutil.copytree(made.folder, tmp_path / "out"))
    encoded = featurize(manifest, out, text_encoder=str(BERT))
    assert encoded.measured == 0
    assert encoded.corpus.signature.widths[0] == 64
    before, after = (read_corpus(each).splits["train"][0] for each in (made.folder, out))
    np.testing.assert_array_equal(after.audio, before.audio)
    assert np.abs(after.text).sum() > 0


def test_it_is_prepared_for_training_and_can_be_prepared_anew(made, tmp_path: Path):
    corpus = open_prepared(made.folder)
    assert corpus.path == made.corpus.path
    assert {split: len(corpus.ids(split)) for split in corpus.hashes} == {
        "train": 3, "validation": 1, "test": 1
    }  # fmt: skip
    anew = prepare(made.folder, tmp_path, split_rule="fold:1/2")
    assert anew.hashes["test"] == corpus.hashes["test"]


def test_frames_are_kept_one_after_the_other(made, manifest, tmp_path: Path):
    out = tmp_path / "frames"
    framed = featurize(manifest, out, Settings(frames=3), workers=2)
    signature = read_corpus(out).signature
    face = measures.PLAIN_WIDTH // 2
    assert (signature.widths, signature.frames) == ((512, 3 * 70, 3 * face), (1, 3, 3))
    assert open_prepared(framed.corpus.path).signature == signature
    assert "means in 3 frames of log-mel" in (out / "card.md").read_text()
    assert framed.card["set_aside"] == made.card["set_aside"]
    kept = (out / "utterances.jsonl").read_text()
    for frames in ([1, 0, 3], [1, 4, 3], [1, 3], None, [1, 3.0, 3]):
        spoilt = kept.replace('"frames": [1, 3, 3]', f'"frames": {json.dumps(frames)}', 1)
        (out / "utterances.jsonl").write_text(spoilt)
        with pytest.raises(DataError, match="field 'frames': line 1"):
            read_corpus(out)
    with pytest.raises(ConfigError, match="frames are 2 to 64"):
        featurize(manifest, tmp_path / "none", Settings(frames=1))


def test_splits_of_the_manifest_are_kept_and_one_dialogue_is_enough_to_predict(
    manifest, tmp_path: Path
):
    folder = manifest.parent
    header = ("dialogue", "speaker", "start", "end", "text", "label", "media", "split")
    rows = [
        row(f"d{i}", 0, 0.5, "c.wav", split=split)
        for i, split in enumerate(["test", "train", "dev", "train"])
    ]
    path = write_manifest(folder / "splits.csv", rows, header)
    made = featurize(path, tmp_path / "out", workers=1)
    assert made.measured == 1  # the same second of the same recording four times over
    assert {split: made.corpus.ids(split) for split in made.corpus.hashes} == {
        "train": ("d1", "d3"), "validation": ("d2",), "test": ("d0",)
    }  # fmt: skip
    alone = featurize(
        write_manifest(folder / "alone.csv", [row("d", 0, 0.5, "c.wav")]),
        tmp_path / "alone", workers=1,
    )  # fmt: skip
    assert alone.corpus is None
    assert [each.id for each in read_corpus(alone.folder).splits["test"]] == ["d"]
    with pytest.raises(DataError, match="no training split"):
        prepare(alone.folder, tmp_path / "prepared")


def test_a_worker_that_dies_or_hangs_costs_its_utterance_alone(manifest):
    task = {"path": str(manifest.parent / "c.wav"), "start": 0.0, "end": 0.5}
    known = vars(Settings())
    dead = list(measured([task], known | {"vision": "/nowhere"}, 2, 100))
    assert [number for number, _ in dead] == [0]
    assert all("ended with 1" in answer["died"] for _, answer in dead)
    ((_, slow),) = measured([task], known, 1, 0.01)
    assert "no end after" in slow["died"]


def test_what_workers_died_of_is_set_aside_and_tried_again(manifest, tmp_path: Path, monkeypatch):
    rows = [row(name, 0, 0.5, "c.wav", text=f"Word {name}.") for name in "abc"]
    path = write_manifest(manifest.parent / "three.csv", rows)
    with monkeypatch.context() as patch:
        patch.setattr(run, "_PATIENCE", 0.01)
        slow = featurize(path, tmp_path / "out", workers=1)
    assert slow.card["set_aside"]["audio"] == {"broken": 3}
    assert slow.card["left_out"] == 0
    again = featurize(path, tmp_path / "out", workers=1)
    assert again.measured == 1  # the three rows are of one clip
    assert again.card["present"]["audio"] == 3


def test_the_command_says_what_it_did_and_what_is_wrong(made, manifest, tmp_path: Path, capsys):
    out = Path(shutil.copytree(made.folder, tmp_path / "out"))
    assert main(["featurize", str(manifest), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for words in ("12 utterances, 2 left out", "1 silent", "1 no face", "Measured now: 0", "Next:"):
        assert words in said
    assert main(["featurize", str(tmp_path / "nowhere.csv"), "--out", str(out)]) == 1
    assert "cannot be read" in capsys.readouterr().err
    write_manifest(tmp_path / "m.csv", [row("d", 0, "nan", "a.wav")])
    assert main(["featurize", str(tmp_path / "m.csv"), "--out", str(tmp_path / "new")]) == 1
    assert "line 2" in capsys.readouterr().err


def first(line):
    line["widths"] = [512, 1, 10**9]


def second(line):
    line["audio"] = "AAAA"


def unknown(line):
    line["label"] = "furious"


@pytest.mark.parametrize(
    ("number", "spoil", "words"),
    [
        (0, first, ["line 1", "widths"]),
        (1, second, ["line 2", "audio", "3 bytes"]),
        (1, unknown, ["label", "'furious'"]),
    ],
)
def test_a_spoilt_folder_is_refused_by_line_and_field(made, tmp_path: Path, number, spoil, words):
    out = Path(shutil.copytree(made.folder, tmp_path / "out"))
    lines = (out / "utterances.jsonl").read_text().splitlines()
    content = json.loads(lines[number])
    spoil(content)
    lines[number] = json.dumps(content)
    (out / "utterances.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError) as caught:
        read_corpus(out)
    for word in ["utterances.jsonl", *words]:
        assert word in str(caught.value)
