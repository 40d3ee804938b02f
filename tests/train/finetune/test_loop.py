"""A whole fine-tuning: what it leaves, that nothing is lost when it stops, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from emojax.cli import SIGTERM_EXIT, main
from emojax.data.prepare import prepare
from emojax.data.readers import read_corpus
from emojax.data.text_encoder import open_text_encoder
from emojax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from emojax.train.finetune.loop import finetune
from emojax.train.finetune.run import create_tuning, open_tuning
from emojax.train.log import Watch
from emojax.train.reads import reads

QUIET = Console(quiet=True)
LEFT = {
    "encoder", "head.safetensors", "metrics.jsonl", "predictions.csv", "predictions.jsonl",
    "result.json", "run.json", "tensorboard", "test_reads.json", ".lock",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "done"
    result = finetune(create_tuning(folder, config()), QUIET)
    assert result == json.loads((folder / "result.json").read_text())
    return folder


def test_what_is_left(done: Path, meld: Path):
    assert {path.name for path in done.iterdir()} == LEFT
    result = json.loads((done / "result.json").read_text())
    scores = [record["validation"]["weighted_f1"] for record in result["history"]]
    assert len(scores) == 2
    assert result["best"]["validation"]["weighted_f1"] == max(scores)
    assert len(reads(done)) == 1
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == result["history"][-1]["step"]
    assert losses[-1] < losses[0]
    assert result["test"]["accuracy"] > 0.7  # the words tell it
    assert result["conversations"] == {"train": 32, "validation": 4, "test": 5}


def test_the_encoder_and_its_head_say_what_was_scored(done: Path, meld: Path):
    encoder, head = open_text_encoder(str(done / "encoder")), load_file(done / "head.safetensors")
    corpus = read_corpus(meld)
    told = map(json.loads, (done / "predictions.jsonl").read_text().splitlines())
    for each, line in zip(corpus.splits["test"], told, strict=True):
        names = [corpus.signature.speakers[who] for who in each.speaker]
        logits = encoder.encode(encoder.read(each.transcript, names)) @ head["kernel"]
        found = np.exp(logits + head["bias"])
        found /= found.sum(-1, keepdims=True)
        said = [list(u["probabilities"].values()) for u in line["utterances"]]
        np.testing.assert_allclose(found, said, atol=2e-5)


def test_training_reads_the_features(done: Path, meld: Path, tmp_path: Path):
    corpus = prepare(meld, tmp_path, text_encoder=str(done / "encoder"))
    assert corpus.signature.widths[0] == 16
    one = corpus.split("test")[0]
    encoder = open_text_encoder(str(done / "encoder"))
    names = [corpus.signature.speakers[who] for who in one.speaker]
    expected = encoder.encode(encoder.read(one.transcript, names))
    np.testing.assert_allclose(one.text, expected, atol=1e-5)


@pytest.mark.parametrize("at", [2, 9])
def test_a_stop_loses_nothing(done: Path, config, tmp_path: Path, monkeypatch, at: int):
    """Within the first epoch, and in the second after a checkpoint."""
    folder, plain, seen = tmp_path / "run", Watch.step, []

    def step(self, *given):
        plain(self, *given)
        seen.append(given)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGTERM)

    given = [f"--set={name}" for name in _assignments(config("train.checkpoint_every=4"))]
    monkeypatch.setattr(Watch, "step", step)
    assert main(["finetune-text", "--out", str(folder), "--quiet", *given]) == SIGTERM_EXIT
    assert not (folder / "result.json").exists()
    assert main(["finetune-text", "--out", str(folder), "--quiet", "--resume"]) == 0
    for name in ("encoder/model.safetensors", "head.safetensors", "predictions.jsonl"):
        assert (folder / name).read_bytes() == (done / name).read_bytes()
    steps = [json.loads(x)["step"] for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [
        json.loads(x)["step"] for x in (done / "metrics.jsonl").read_text().splitlines()
    ]
    # Once more does nothing: the test split is not read again.
    before = (folder / "result.json").stat().st_mtime_ns
    assert main(["finetune-text", "--out", str(folder), "--quiet", "--resume"]) == 0
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert len(reads(folder)) == 1


def _steps(run: Path) -> list[int]:
    return [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text().splitlines()]


def _assignments(config) -> list[str]:
    from emojax.config import to_dict

    return [
        f"{section}.{name}={json.dumps(value) if value is not None else 'null'}"
        for section, fields in to_dict(config).items() for name, value in fields.items()
    ]  # fmt: skip


def test_without_checkpoints_the_result_is_the_same(done: Path, config, tmp_path: Path):
    result = finetune(create_tuning(tmp_path / "run", config()), QUIET, volatile=True)
    expected = json.loads((done / "result.json").read_text())
    assert result["test"] == expected["test"]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_share_is_of_conversations(config, tmp_path: Path):
    tuning = create_tuning(tmp_path / "run", config("data.train_share=0.25"))
    assert len(tuning.examples["train"].conversations) == 8
    assert len(tuning.examples["validation"].conversations) == 4


def test_numbers_that_are_not_finite_stop_it(config, tmp_path: Path):
    wild = config("train.learning_rate=1e38", "train.head_learning_rate=1e38", "train.warmup=0")
    with pytest.raises(NonFiniteError, match=r"Conversations of the batch: train_|validation"):
        finetune(create_tuning(tmp_path / "run", wild), QUIET, volatile=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.source="], r"data.source is not set"),
        (["text.tokens=161"], r"text.tokens must be at most 160"),
        (["text.freeze_layers=3"], r"text.freeze_layers must be at most 2"),
    ],
)
def test_what_cannot_be_is_refused(config, tmp_path: Path, changes, message):
    with pytest.raises(ConfigError, match=message):
        create_tuning(tmp_path / "run", config(*changes))
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_words_is_refused(config, meld: Path, tmp_path: Path):
    mute = Path(shutil.copytree(meld, tmp_path / "mute"))
    table = mute / "dev_sent_emo.csv"
    lines = [line.split(",", 1) for line in table.read_text().splitlines()]
    table.write_text("\n".join(f"{'' if i else 'Utterance'},{x[1]}" for i, x in enumerate(lines)))
    with pytest.raises(DataError, match="the validation split has no labelled utterance with word"):
        create_tuning(tmp_path / "run", config(f"data.source={mute}"))


def test_only_the_same_goes_on(config, meld: Path, tmp_path: Path, capfd):
    other = Path(shutil.copytree(meld, tmp_path / "meld"))
    folder = tmp_path / "run"
    create_tuning(folder, config(f"data.source={other}"))
    with pytest.raises(ConfigError, match="holds a run already"):
        create_tuning(folder, config())
    assert main(["finetune-text", "--out", str(folder), "--resume", "--set=train.epochs=9"]) == 1
    assert "was started with other settings" in capfd.readouterr().err
    table = other / "train_sent_emo.csv"
    table.write_text(table.read_text().replace("good", "real"))
    with pytest.raises(DataError, match="the corpus is not the one"):
        open_tuning(folder)
    with pytest.raises(CheckpointError, match="there is no run here"):
        open_tuning(tmp_path)
    (folder / "run.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not of a fine-tuning"):
        open_tuning(folder)
