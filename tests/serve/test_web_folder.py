"""The folder of the page: whole, with the runtime it should have, and served with care."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import urllib.request

import numpy as np
import pytest

from emojax.data.readers.json_lines import read_json_lines
from emojax.errors import ConfigError, DataError
from emojax.serve import web_folder
from emojax.serve.pretrained import weights_of
from emojax.serve.web_folder import (
    HEADERS,
    PAGE,
    RUNTIME_FILES,
    describe,
    examples,
    runtime_package,
    web_server,
    write_web_folder,
)
from emojax.train.run import open_run
from emojax.types import MODALITIES
from tests.pages import Page
from tests.tiny_run import ENVIRONMENT

NAME = "onnxruntime-web-1.30.0.tgz"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small tarball that passes for the runtime's; an `npm` that packs it; the home."""
    tarball = tmp_path / "tarball.tgz"
    with tarfile.open(tarball, "w:gz") as tar:
        for name in (*(f"package/dist/{each}" for each in RUNTIME_FILES), "../../evil.js"):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            tar.addfile(member, io.BytesIO(name.encode()))
    bin, home = tmp_path / "bin", tmp_path / "home"
    bin.mkdir()
    home.mkdir()
    npm = bin / "npm"
    npm.write_text(f'#!/bin/sh\necho "$@" >> {bin}/calls\n/bin/cp {tarball} {NAME}\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(bin))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(web_folder, "INTEGRITY", web_folder._integrity(tarball))
    return npm


def test_the_runtime_is_fetched_once(package, tmp_path):
    path = runtime_package()
    assert path == tmp_path / "home/.cache/emojax/npm" / NAME
    package.unlink()
    assert runtime_package() == path
    assert (package.parent / "calls").read_text().count("pack onnxruntime-web@1.30.0") == 1
    assert [each.name for each in path.parent.iterdir()] == [NAME]


def test_a_package_that_is_not_the_one_is_refused(package, monkeypatch, tmp_path):
    monkeypatch.setattr(web_folder, "INTEGRITY", "something else")
    with pytest.raises(ConfigError, match="is not the package that it should be"):
        runtime_package()
    assert not list((tmp_path / "home/.cache/emojax/npm").iterdir())


def test_a_damaged_package_is_fetched_again(package):
    path = runtime_package()
    path.write_bytes(path.read_bytes()[:-3])
    assert web_folder._integrity(runtime_package()) == web_folder.INTEGRITY


def test_without_npm_it_says_what_to_install(package, tmp_path):
    package.unlink()
    with pytest.raises(ConfigError, match=r"npm, which is not installed. Install Node.js"):
        write_web_folder(tmp_path / "out", tmp_path / "model.onnx", {}, [])
    assert not (tmp_path / "out").exists()


def test_an_npm_that_fails_is_quoted(package):
    package.write_text("#!/bin/sh\necho 'npm error network' >&2\nexit 1\n")
    with pytest.raises(ConfigError, match=r"npm could not fetch .* It says: npm error network"):
        runtime_package()


def test_the_folder_holds_page_model_and_runtime(package, tmp_path):
    model, out = tmp_path / "any.onnx", tmp_path / "out"
    model.write_bytes(b"onnx")
    write_web_folder(out, model, {"labels": ["ä"]}, [{"id": "é"}, {"id": "b"}])
    assert (out / "model.onnx").read_bytes() == b"onnx"
    assert json.loads((out / "model.json").read_text()) == {"labels": ["ä"]}
    assert (out / "example.jsonl").read_text("utf-8") == '{"id": "é"}\n{"id": "b"}\n'
    for path in filter(lambda each: each.is_file(), PAGE.rglob("*")):
        assert (out / path.relative_to(PAGE)).read_bytes() == path.read_bytes()
    for name in RUNTIME_FILES:
        assert (out / "onnxruntime" / name).read_text() == f"package/dist/{name}"
    assert not list(tmp_path.rglob("evil.js"))
    assert "MIT License" in (out / "onnxruntime/LICENSE").read_text()
    write_web_folder(out, out / "model.onnx", {}, [])  # the model may be in its place already
    assert (out / "model.onnx").read_bytes() == b"onnx"
    with pytest.raises(DataError, match="cannot be written"):
        write_web_folder(out, tmp_path / "absent.onnx", {}, [])


def test_the_examples_are_read_back_as_they_were(tiny_run, tmp_path):
    run = open_run(tiny_run.folder)
    found = examples(run)
    path = tmp_path / "example.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in found))
    corpus = read_json_lines(path, run.corpus.signature, any_speaker=False)
    records = {each.id: each for each in run.corpus.split("validation")}
    assert len(corpus.splits["test"]) == web_folder.EXAMPLES
    for conversation in corpus.splits["test"]:
        for field in (*MODALITIES, "present", "speaker", "label"):
            mine, theirs = getattr(conversation, field), getattr(records[conversation.id], field)
            if field in MODALITIES:
                theirs = np.where(conversation.present[:, [MODALITIES.index(field)]], theirs, 0)
            np.testing.assert_array_equal(mine, theirs)
        assert conversation.transcript == records[conversation.id].transcript


def test_the_description_is_what_the_page_needs(tiny_run):
    run = open_run(tiny_run.folder)
    card = {"validation_weighted_f1": {"exported": 0.5}}
    found = json.loads(json.dumps(describe(run, weights_of(tiny_run.folder), card)))
    assert found["widths"] == {"text": 6, "audio": 5, "visual": 4}
    assert {m: len(x) for m, x in found["deviation"].items()} == found["widths"]
    np.testing.assert_allclose(found["deviation"]["audio"], run.corpus.spread["audio"], rtol=1e-6)
    assert found["labels"] == list(run.corpus.signature.labels)
    assert found["embeds_speakers"] is False
    assert found["own_decisions"] is False
    assert found["text_encoder"] is None
    assert found["validation_f1"] == 0.5


def test_the_page_has_no_code_or_style_of_its_own():
    page = Page((PAGE / "index.html").read_text())
    assert page.crossed == []
    assert not [a for a in page.attributes if a[1].startswith("on") or a[1] == "style"]
    assert "style" not in page.tags
    assert [a[2] for a in page.attributes if a[0] == "script"] == ["module", "app.js"]
    policy = next(v for _, n, v in page.attributes if n == "content" and "default-src" in v)
    # frame-ancestors only counts in a header.
    served = HEADERS["Content-Security-Policy"].replace("; frame-ancestors 'none'", "")
    assert policy == served
    for script in PAGE.glob("*.js"):
        text = script.read_text()
        forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
        assert not [each for each in (*forbidden, "new Function") if each in text], script.name
        assert "http" not in text.replace("http://127.0.0.1", ""), script.name


@pytest.fixture
def server(package, tmp_path):
    out = tmp_path / "out"
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    (tmp_path / "secret.txt").write_text("secret")
    write_web_folder(out, tmp_path / "m.onnx", {}, [])
    server = web_server(out)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": host} if host else {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, dict(response.getheaders()), content


def test_the_server_is_for_this_machine_and_careful(server):
    assert server.server_address[0] == "127.0.0.1"
    kinds = {
        "/": "text/html; charset=utf-8", "/app.js": "text/javascript; charset=utf-8",
        f"/onnxruntime/{RUNTIME_FILES[0]}": "text/javascript; charset=utf-8",
        f"/onnxruntime/{RUNTIME_FILES[1]}": "application/wasm",
        "/model.json": "application/json", "/model.onnx": "application/octet-stream",
        "/style.css": "text/css; charset=utf-8",
    }  # fmt: skip
    for path, kind in kinds.items():
        status, headers, _ = ask(server, path)
        assert (status, headers["Content-type"]) == (200, kind)
        assert HEADERS.items() <= headers.items()
    for path in ("/onnxruntime/", "/../secret.txt", "/%2e%2e/secret.txt", "/absent"):
        status, _, content = ask(server, path)
        assert status == 404
        assert b"secret" not in content.replace(b"secret.txt", b"")
    assert ask(server, "/", host="localhost:1")[0] == 200
    assert ask(server, "/", host="evil.test")[0] == 421
    assert ask(server, "/", host="evil.test:80")[0] == 421


def test_a_server_that_cannot_be_says_why(server, tmp_path):
    with pytest.raises(ConfigError, match="Choose another"):
        web_server(tmp_path / "out", server.server_port)
    with pytest.raises(ConfigError, match="no page here"):
        web_server(tmp_path)


def test_it_serves_until_it_is_interrupted(server, tmp_path):
    # Whoever runs the suite in a shell's background has told it to ignore interrupts.
    code = "import signal, sys, pathlib; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from emojax.serve.web_folder import serve_folder as s; s(pathlib.Path(sys.argv[1]), 0)"
    command = [sys.executable, "-c", code, tmp_path / "out"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=30) as response:
            assert response.status == 200
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(package, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"onnx")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot be written"):
        write_web_folder(closed / "out", tmp_path / "m.onnx", {}, [])
