"""Hostile, damaged and honest pickles."""

from __future__ import annotations

import copyreg
import os
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from emojax.data.readers.safe_pickle import load
from emojax.errors import DataError


def same(a: object, b: object) -> bool:
    if isinstance(b, np.ndarray) and b.dtype == object:
        return a.shape == b.shape and all(map(same, a.ravel(), b.ravel()))
    if isinstance(b, np.ndarray | np.generic):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


CONTENT = {
    "floats": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.ones((3, 2), np.float32))],
    "big endian": np.arange(4, dtype=">i4"),
    "scalars": (np.float32(1.5), np.int64(7), np.bool_(True), np.str_("é")),
    "half": np.zeros((0, 4), np.float16),
    "words": np.array(["a", "bcd"]),
    "bytes": b"\x00\xff",
    "sets": [{"a"}, frozenset({1, 2})],
    "plain": [None, True, 1, -(2**70), 1.5, "x", ("t",), []],
    "objects": np.array([np.ones(2), "x", None, [1]], dtype=object),
}


@pytest.mark.parametrize("protocol", range(5))
def test_plain_content_is_read_as_it_is(tmp_path: Path, protocol: int):
    path = tmp_path / "plain.pkl"
    data = pickle.dumps(CONTENT, protocol=protocol)
    path.write_bytes(data)
    assert same(load(path), pickle.loads(data))


@pytest.mark.parametrize("old", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_module_paths_of_numpy_1_and_2(tmp_path: Path, old: bytes):
    data = pickle.dumps([np.arange(3.0), np.float32(2)], protocol=2)
    data = data.replace(b"numpy._core.multiarray", old).replace(b"numpy.core.multiarray", old)
    assert old in data
    path = tmp_path / "numpy.pkl"
    path.write_bytes(data)
    assert same(load(path), [np.arange(3.0), np.float32(2)])


def test_byte_strings_of_python_2_are_arrays(tmp_path: Path):
    raw = np.array([1.5, -2.0]).tobytes()
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tb."
    )
    path = tmp_path / "python2.pkl"
    path.write_bytes(data)
    assert same(load(path), np.array([1.5, -2.0]))


@pytest.mark.parametrize("name", ["iemocap_12tuple", "iemocap_9tuple", "meld_13tuple"])
def test_fixtures_agree_with_the_plain_unpickler(shared: Path, name: str):
    path = shared / "fixtures" / f"{name}.pkl"
    with path.open("rb") as stream:
        assert same(load(path), pickle.load(stream, encoding="latin1"))


class Gadget:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def bomb(shape: tuple, dtype: str, raw: bytes) -> bytes:
    """An array of any claimed shape over any bytes."""
    return (
        b"\x80\x03cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
        + (b"(K\x01" + pickle.dumps(shape, protocol=2)[2:-1])
        + (b"cnumpy\ndtype\n(" + text(dtype) + b"tR")
        + (b"\x89C" + bytes([len(raw)]) + raw + b"tb.")
    )


def hostile(touch: str) -> dict[str, tuple[bytes, str]]:
    """Name to (pickle, what the error must name)."""
    command = f"touch {touch}"
    hidden = np.array([Gadget(os.system, command)], dtype=object)
    return {
        "reduce": (pickle.dumps(Gadget(os.system, command), protocol=2), "posix.system"),
        "reduce, framed": (pickle.dumps([Gadget(os.system, command)]), "posix.system"),
        "object array": (pickle.dumps(hidden), "posix.system"),
        "object array, text protocol": (pickle.dumps(hidden, protocol=0), "posix.system"),
        "inst": (b"(S'" + command.encode() + b"'\nios\nsystem\n.", "os.system"),
        "obj": (b"(cos\nsystem\n" + text(command) + b"o.", "os.system"),
        "stack global": (
            b"\x80\x04" + text("os") + text("system") + b"\x93" + text(command) + b"\x85R.",
            "os.system",
        ),
        "dotted": (
            b"\x80\x04" + text("numpy") + text("ndarray.dumps") + b"\x93" + b".",
            "numpy.ndarray.dumps",
        ),
        "eval": (pickle.dumps(Gadget(eval, "1")), "builtins.eval"),
        "getattr": (pickle.dumps(Gadget(getattr, "x", "upper")), "builtins.getattr"),
        "build": (
            b"cemojax.types\nConversation\n)\x81}" + text("id") + text("x") + b"sb.",
            "emojax.types.Conversation",
        ),
        "numpy load": (pickle.dumps(Gadget(np.load, "x")), "numpy.load"),
        "numpy frombuffer": (pickle.dumps(np.ones(3), protocol=5), "_frombuffer"),
        "extension": (b"\x80\x02\x82\x07.", "EXT1"),
        "persistent": (b"Pname\n.", "PERSID"),
        "persistent, binary": (b"\x80\x02K\x01Q.", "BINPERSID"),
        "new object": (b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.", "NEWOBJ"),
        "memo": (b"\x80\x02]r\xff\xff\xff\x7f.", "memo"),
        "long bytes": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.", "truncated"),
    }


@pytest.mark.parametrize("name", sorted(hostile("")))
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path: Path, name: str):
    mark = tmp_path / "ran"
    data, named = hostile(str(mark))[name]
    path = tmp_path / "hostile.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=named.replace(".", r"\.")) as caught:
        load(path)
    assert caught.value.file == str(path)
    assert not mark.exists()


def test_the_gadgets_are_live(tmp_path: Path):
    """The plain unpickler does run them, so the test above can fail."""
    mark = tmp_path / "ran"
    for name in ("reduce", "object array", "inst", "obj", "stack global"):
        pickle.loads(hostile(str(mark))[name][0])
        assert mark.exists(), name
        mark.unlink()


def test_an_extension_code_known_to_this_process_is_refused(tmp_path: Path):
    copyreg.add_extension("os", "getcwd", 7)
    try:
        # A code resolved once is cached by the interpreter, past any `find_class`.
        assert pickle.loads(b"\x80\x02\x82\x07.") is os.getcwd
        path = tmp_path / "extension.pkl"
        path.write_bytes(b"\x80\x02\x82\x07)R.")
        with pytest.raises(DataError, match="EXT1"):
            load(path)
    finally:
        copyreg.remove_extension("os", "getcwd", 7)


def test_the_fixture_of_a_hostile_pickle(shared: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"posix\.system"):
        load(shared / "fixtures" / "malicious.pkl")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shape", "dtype", "raw"),
    [
        ((2**40,), "f8", b""),
        ((2**40, 2**40), "f8", b"12345678"),
        ((2**31, 0, 2**31), "f8", b""),
        ((-1,), "f8", b""),
        ((True,), "f8", b"12345678"),
        ((3,), "f8", b"12345678"),
        ((1,) * 40, "f8", b"12345678"),
        ((2**40,), "V0", b""),
        ((2**40,), "O", b""),
        ((1,), "O", b"12345678"),
    ],
)
def test_absurd_arrays_are_refused(tmp_path: Path, shape: tuple, dtype: str, raw: bytes):
    path = tmp_path / "bomb.pkl"
    path.write_bytes(bomb(shape, dtype, raw))
    with pytest.raises(DataError, match="damaged"):
        load(path)


def test_the_bomb_is_otherwise_a_sound_array(tmp_path: Path):
    path = tmp_path / "sound.pkl"
    path.write_bytes(bomb((1,), "f8", b"12345678"))
    assert load(path).shape == (1,)


@pytest.mark.parametrize(
    "call",
    [
        b"cnumpy\nndarray\n(K\x05\x85tR.",
        b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01btR.",
        b"cnumpy\ndtype\n(X\x05\x00\x00\x00f8,f8tR.",
        b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x01\x00\x00\x00OtRNtR.",
        b"c_codecs\nencode\n(X\x01\x00\x00\x00xX\x06\x00\x00\x00utf-16tR.",
        b"cnumpy\ndtype\n}X\x08\x00\x00\x00__call__Nsb.",
        b"cnumpy\ndtype\n(N}X\x09\x00\x00\x00__class__cnumpy\nndarray\nstb.",
        b"c__builtin__\nset\n(X\x03\x00\x00\x00abctR.",
    ],
)
def test_allowed_names_do_only_what_numpy_writes(tmp_path: Path, call: bytes):
    path = tmp_path / "call.pkl"
    path.write_bytes(b"\x80\x03" + call)
    with pytest.raises(DataError):
        load(path)
    data = pickle.dumps(CONTENT, protocol=2)
    path.write_bytes(data)
    assert same(load(path), pickle.loads(data)), "nothing was altered for the next file"


def test_truncation_anywhere_is_a_data_error(write, iemocap_content, tmp_path: Path):
    data = write(iemocap_content, protocol=2).read_bytes()
    path = tmp_path / "cut.pkl"
    rng = random.Random(0)
    offsets = {0, 1, 2, 3, len(data) - 1} | {rng.randrange(len(data)) for _ in range(200)}
    for offset in offsets:
        path.write_bytes(data[:offset])
        with pytest.raises(DataError):
            load(path)


def test_truncation_of_the_real_layout(shared: Path, tmp_path: Path):
    with pytest.raises(DataError, match="truncated"):
        load(shared / "fixtures" / "truncated.pkl")
    data = (shared / "fixtures" / "iemocap_9tuple.pkl").read_bytes()
    path = tmp_path / "cut.pkl"
    rng = random.Random(1)
    for offset in [rng.randrange(len(data)) for _ in range(40)]:
        path.write_bytes(data[:offset])
        with pytest.raises(DataError, match=r"truncated|empty|not a pickle"):
            load(path)


def test_noise_is_a_data_error_or_plain(write, iemocap_content, tmp_path: Path):
    """Flipped bytes may leave a sound pickle of other numbers, but never another exception."""
    data = write(iemocap_content, protocol=2).read_bytes()
    path = tmp_path / "noise.pkl"
    rng = random.Random(2)
    refused = 0
    for _ in range(150):
        noisy = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            noisy[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(noisy)
        try:
            load(path)
        except DataError:
            refused += 1
    assert 10 < refused < 150


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "empty"), (b"Utterance,Speaker\n", "not a pickle"), (b"\xff\xd8\xff", "not a pickle")],
)
def test_other_files(tmp_path: Path, content: bytes, problem: str):
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        load(path)


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(DataError, match="cannot be read"):
        load(tmp_path / "missing.pkl")


@pytest.mark.parametrize("depth", [100, 3_000_000])
def test_deep_tuples_do_not_bring_the_interpreter_down(tmp_path: Path, depth: int):
    path = tmp_path / "deep.pkl"
    path.write_bytes(b"\x80\x02}N" + b"\x85" * depth + b"Ns.")
    with pytest.raises(DataError, match="nested"):
        load(path)
    # The same through the memo, which a count of neighbouring opcodes would miss.
    path.write_bytes(b"\x80\x02}Nq\x00" + b"0h\x00\x85q\x00" * depth + b"Ns.")
    with pytest.raises(DataError, match="nested"):
        load(path)
