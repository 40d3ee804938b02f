"""Two small trained runs for everybody who needs one, made by the real command line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import pty
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

from emojax.data.prepare import prepare
from emojax.data.simulator import SimulatorConfig
from emojax.types import MODALITIES, Conversation, Signature
from tests import SHARED
from tests.data.conftest import make_tuple

WORLD = SimulatorConfig(
    train=12, validation=6, test=8, shortest=3, mean_length=7, longest=12, speakers=3, seed=5,
    widths=(6, 5, 4),
)  # fmt: skip
SETTINGS = """
[data]
buckets = [16]
batch_utterances = 64
overlong = "error"
[model]
width = 16
heads = 2
graph_heads = 2
graph_layers = 1
diffusion_steps = 1
[train]
epochs = 2
seed = 3
"""
AUTHORS = """
[data]
layout = "padded"
buckets = [8]
batch_conversations = 32
[model]
name = "redifu_authors"
width = 8
heads = 2
window = 4
[train]
epochs = 1
"""
ENVIRONMENT = {
    **os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or ""),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(SHARED),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """Attributes: the run's folder, what it was trained on, what training printed."""

    folder: Path
    source: Path
    stdout: str
    stderr: str


def emojax(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "emojax", *map(str, arguments)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, **options
    )


def on_terminal(*arguments: object, stdout: int | None = None) -> tuple[int, str, str]:
    """The command line on a terminal: exit status, what the terminal shows, what a pipe got.

    Args:
      stdout: `subprocess.PIPE` to leave only standard error to the terminal.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "emojax", *map(str, arguments)]
    seen = bytearray()

    def watch() -> None:
        # A terminal that nobody reads fills up and stops whoever writes; at its end comes EIO.
        with contextlib.suppress(OSError):
            while data := os.read(ours, 4096):
                seen.extend(data)

    with subprocess.Popen(
        command, env=ENVIRONMENT | {"TERM": "xterm"}, stdin=subprocess.DEVNULL,
        stdout=theirs if stdout is None else stdout, stderr=theirs, text=True,
    ) as process:  # fmt: skip
        os.close(theirs)
        watcher = threading.Thread(target=watch)
        watcher.start()
        piped, _ = process.communicate(timeout=300)
        watcher.join()
    os.close(ours)
    return process.returncode, seen.decode(), piped or ""


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> TinyRun:
    """redifu, two epochs on a small simulated world that is not the default one."""
    place = tmp_path_factory.mktemp("tiny")
    source = prepare(WORLD, place / "data").path
    config = place / "tiny.toml"
    config.write_text(SETTINGS)
    done = emojax("train", "--config", config, "--data", source, "--out", place / "run")
    assert done.returncode == 0, done.stderr
    return TinyRun(place / "run", source, done.stdout, done.stderr)


def iemocap_content() -> list:
    """A 9-tuple's content: 30 dialogues of five sessions, the last of them for the test."""
    keys = [f"Ses{s:02d}{g}_impro{n:02d}" for s in range(1, 6) for g in "FM" for n in (1, 2, 10)]
    content = make_tuple(keys, length=9, speaker=lambda u: "MF"[u % 2], widths=(5, 4, 3), classes=6)
    content[7:] = [[k for k in keys if "Ses05" not in k], [k for k in keys if "Ses05" in k]]
    return content


@pytest.fixture(scope="session")
def authors_run(tmp_path_factory) -> TinyRun:
    """redifu_authors, one epoch on an IEMOCAP pickle with a bad dialogue in training and test."""
    place = tmp_path_factory.mktemp("authors")
    content = iemocap_content()
    content[3]["Ses01F_impro01"][0][2] = np.nan
    content[2]["Ses05M_impro10"][0] = 17
    source, config = place / "features.pkl", place / "authors.toml"
    source.write_bytes(pickle.dumps(content))
    config.write_text(AUTHORS)
    done = emojax(
        "train", "--config", config, "--data", source, "--data-dir", place / "data", "--skip-bad",
        "--out", place / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return TinyRun(place / "run", source, done.stdout, done.stderr)


def as_json(conversation: Conversation, signature: Signature) -> str:
    """A conversation as the line that `read_json_lines` reads; missing modalities are null."""
    utterances = []
    for i in range(len(conversation)):
        label = conversation.label[i]
        fields = {
            "speaker": signature.speakers[conversation.speaker[i]],
            "transcript": conversation.transcript[i],
            "label": signature.labels[label] if label >= 0 else None,
        }
        for column, modality in enumerate(MODALITIES):
            there = conversation.present[i, column]
            fields[modality] = getattr(conversation, modality)[i].tolist() if there else None
        utterances.append(fields)
    return json.dumps({"id": conversation.id, "utterances": utterances}, ensure_ascii=False)
