"""Checkpoints give back every bit, or say that they cannot, whatever happened to their files."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.dist import processes
from emojax.errors import CheckpointError, ProcessError
from emojax.train.checkpoint import Checkpoints, _fingerprint
from tests.train.runs import bits, complete, environment


def tree(seed: int):
    """Arrays of every type that a training state holds, with values that are easily lost."""
    draw = np.random.default_rng(seed)
    odd = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-42], np.float32)
    return {
        "matrix": jnp.asarray(draw.normal(size=(40, 30)), jnp.float32),
        "half": jnp.asarray(draw.normal(size=7).astype(ml_dtypes.bfloat16)),
        "odd": jnp.asarray(odd),
        "nested": [jnp.asarray(seed, jnp.int32), jnp.asarray(draw.integers(2**32, size=2), "u4")],
        "nothing": None,
    }


@pytest.fixture
def series(tmp_path):
    opened = Checkpoints(tmp_path / "series", keep=2)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a series with steps 1 and 2."""
    folder = tmp_path_factory.mktemp("saved") / "series"
    written = Checkpoints(folder, keep=2)
    for step in (1, 2):
        written.save(step, tree(step), {"step": step})
    written.close()
    return folder


def restore(folder: Path, keep: int | None = None):
    """((step, bits, notes) or None, what was said of the folder)."""
    opened = Checkpoints(folder, keep=keep)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = opened.restore(tree(0))
    opened.close()
    # And not of what earlier tests left behind, which may be collected, and complain, just then.
    said = [said for each in caught if (said := str(each.message)).startswith(f"{folder}/")]
    return found and (found[0], bits(found[1]), found[2]), said


def test_every_bit_comes_back_and_the_oldest_goes(series):
    assert series.restore(tree(0)) is None
    assert series.notes() is None
    for step in (3, 5, 8):
        series.save(step, tree(step), {"history": [0.1, {"a": None}], "step": step})
    series.wait()
    assert series.steps() == [5, 8]
    step, found, notes = series.restore(tree(0))
    assert (step, bits(found)) == (8, bits(tree(8)))
    assert notes == {"history": [0.1, {"a": None}], "step": 8}
    assert series.notes() == notes


def test_what_is_saved_may_be_donated_at_once(series):
    kept = {"x": jnp.arange(1 << 20, dtype=jnp.float32)}
    expected = bits(kept)
    step = jax.jit(lambda t: jax.tree.map(lambda x: x * 2 + 1, t), donate_argnums=0)
    series.save(1, kept, {})
    for _ in range(20):
        kept = step(kept)
    series.wait()
    _, found, _ = series.restore(kept)
    assert bits(found) == expected


def test_a_step_that_is_there_is_left_alone_if_whole(series):
    series.save(1, tree(1), {"first": True})
    series.wait()
    series.save(1, tree(1), {"first": False})
    series.wait()
    assert series.notes() == {"first": True}

    for file in (series.folder / "1" / "tree").rglob("manifest.ocdbt"):
        file.unlink()
    series.save(1, tree(1), {"first": False})
    series.wait()
    assert bits(series.restore(tree(0))[1]) == bits(tree(1))
    assert series.notes() == {"first": False}


def damages(folder: Path):
    """(what, file, change) of every way to harm every file of a checkpoint."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]
        yield "flipped", file, flipped
        yield "cut", file, content[:middle]
        yield "empty", file, b""
        yield "gone", file, None


def test_no_damage_goes_unseen(saved):
    """Each file harmed in each way: what comes back is the newest, or said not to be."""
    newest, older = ((step, bits(tree(step)), {"step": step}) for step in (2, 1))
    outcomes: dict[str, set[bool]] = {}
    for _, file, content in damages(saved / "2"):
        original = file.read_bytes()
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        found, said = restore(saved)
        file.write_bytes(original)
        # Orbax keeps files that restoring does not read; harm to those is none.
        assert (found, said) == (newest, []) or found == older
        if found == older:
            (line,) = said
            assert line.startswith(f"{saved / '2'}: this checkpoint is damaged and is not used (")
        kind = file.relative_to(saved / "2").parts[0]
        outcomes.setdefault(kind, set()).add(found == older)
    assert True in outcomes["tree"]
    assert outcomes["notes"] >= {True}
    assert restore(saved) == (newest, [])


def test_arrays_of_another_checkpoint_are_not_taken(saved, tmp_path):
    """Files that are whole, but not those that were saved."""
    folder = shutil.copytree(saved, tmp_path / "series")
    shutil.rmtree(folder / "2" / "tree")
    shutil.copytree(folder / "1" / "tree", folder / "2" / "tree")
    found, (line,) = restore(folder)
    assert found[0] == 1
    assert "its arrays do not match their fingerprint" in line


def test_damaged_ones_are_moved_aside_only_by_whom_may_write(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "series")
    (folder / "2" / "notes" / "metadata").write_text("{")
    assert restore(folder)[0][0] == 1
    assert complete(folder) == [1, 2]
    assert restore(folder, keep=2)[0][0] == 1
    assert complete(folder) == [1]
    assert (folder / "damaged-0-2").is_dir()


def test_all_damaged(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "series")
    for step in "12":
        (folder / step / "notes" / "metadata").unlink()
    with pytest.raises(CheckpointError, match=r"every checkpoint is damaged \(steps: 1, 2\)"):
        restore(folder, keep=2)
    # A second attempt must not mistake the folder for an empty one.
    with pytest.raises(CheckpointError, match="every checkpoint is damaged"):
        restore(folder, keep=2)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="Not a directory"):
        Checkpoints(tmp_path / "file" / "series", keep=2)


def test_notes_of_the_newest_that_can_be_read(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "series")
    (folder / "2" / "notes" / "metadata").write_text("{")
    opened = Checkpoints(folder, keep=None)
    with pytest.warns(UserWarning, match="series/2: this checkpoint is damaged"):
        assert opened.notes() == {"step": 1}
    opened.close()


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20),
    st.integers(0, 19), st.integers(0, 31),
)  # fmt: skip
def test_the_fingerprint_sees_every_bit(words, place, bit):
    place %= len(words)
    array = np.array(words, np.uint32)
    changed = array.copy()
    changed[place] ^= np.uint32(1 << bit)
    padded, padded_changed = (np.zeros(20, np.uint32) for _ in range(2))
    padded[: len(words)], padded_changed[: len(words)] = array, changed
    before, after = (int(_fingerprint([x])[0]) for x in (padded, padded_changed))
    assert before != after


# One process that forks before any thread is started: each child saves until its turn to die.
KILLED = """
import os, signal, sys
from pathlib import Path
import jax
from emojax.train.checkpoint import Checkpoints
from tests.train.test_checkpoint import tree

def child(folder, turn, pipe):
    events = 0
    def hook(event, arguments):
        nonlocal events
        if event == "open" or event.startswith(("os.", "shutil.")):
            events += 1
            if events == turn:
                os.kill(os.getpid(), signal.SIGKILL)
    series = Checkpoints(folder, keep=1)
    series.save(1, tree(1), {"step": 1})
    series.wait()
    sys.addaudithook(hook)
    for step in (2, 3):
        os.write(pipe, b"%d" % step)
        series.save(step, tree(step), {"step": step})
        series.wait()
        os.write(pipe, b"+")
    os._exit(0)

root, first, stride = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
turn = first
while True:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(root / str(turn), turn, writer)
    os.close(writer)
    said = os.fdopen(reader).read()
    _, status = os.waitpid(pid, 0)
    print(turn, said, flush=True)
    if not os.WIFSIGNALED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    turn += stride
"""


def test_killed_at_every_file_operation_of_a_save(tmp_path):
    """The newest is the one under way or the one before it, whole, and saving goes on."""
    command = [sys.executable, "-c", KILLED, str(tmp_path), "1", "5"]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=True
    )
    turns = [line.split() for line in done.stdout.splitlines()]
    assert len(turns) > 10
    reached = set()
    for turn, said in turns:
        under_way = int(said.replace("+", "")[-1])
        series = Checkpoints(tmp_path / turn, keep=1)
        step, found, notes = series.restore(tree(0))
        assert bits(found) == bits(tree(step))
        assert notes == {"step": step}
        assert step == under_way if said.endswith("+") else step in (under_way, under_way - 1)
        reached.add((under_way, step))
        series.save(4, tree(4), {})
        series.close()
        assert complete(tmp_path / turn) == [4]
    assert reached >= {(2, 1), (2, 2), (3, 2), (3, 3)}


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_process_lost_while_saving_is_no_fault_of_the_disk(tmp_path, monkeypatch, wrapped):
    problem = jax.errors.JaxRuntimeError("ABORTED: CoordinationServiceError=''")
    cause = ValueError("a saving thread failed") if wrapped else problem
    if wrapped:
        cause.__cause__ = problem
    with contextlib.closing(Checkpoints(tmp_path / "last", keep=2)) as series:
        for alone, kind, words in (
            (False, ProcessError, "another process of this run ended .*again with --resume"),
            (True, CheckpointError, "Make room or choose another folder"),
        ):
            monkeypatch.setattr(processes, "alone", lambda alone=alone: alone)
            with pytest.raises(kind, match=words), series._explained("cannot be written"):
                raise cause
            monkeypatch.undo()
