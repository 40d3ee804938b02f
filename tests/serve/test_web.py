"""The page that runs a model in the browser, in a browser: what it shows is what Python says."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
import threading
import urllib.parse

import numpy as np
import pytest
from rich.console import Console

from emojax.data.readers.json_lines import read_json_lines
from emojax.errors import ConfigError
from emojax.serve.export import export_run
from emojax.serve.pretrained import load
from emojax.serve.web_folder import runtime_package, web_server
from emojax.types import MODALITIES
from tests.interop.served import open_sizes
from tests.pages import ATTACK

TOLERANCE = 1e-4
READY = "!document.getElementById('example').disabled"
DONE = "!document.getElementById('download').disabled"
CARDS = "[...document.querySelectorAll('.card')]"


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    try:
        runtime_package()
    except ConfigError as error:
        if "is not the package" in str(error):
            raise
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("web") / "page"
    with open_sizes():
        export_run(tiny_run.folder, "web", out, Console(quiet=True))
    return out


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not here")
def test_its_card_is_of_the_runtime_for_browsers(folder):
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert card["Tried in"].startswith("ONNX Runtime Web")
    assert card["largest_difference"] < 1e-5


def served(folder):
    server = web_server(folder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def address(folder):
    server = served(folder)
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def page(tab, address):
    """The page, ready; it has asked nobody but its own address and met no error."""
    tab.resize(1200)
    tab.open(address)
    tab.wait(READY)
    yield tab
    assert tab.complaints() == []
    assert {each for each in tab.requests() if not each.startswith((address, "blob:"))} == set()


@pytest.fixture(scope="module")
def truth(tiny_run, folder):
    """The example's conversations, the model in Python, and who speaks."""
    model = load(tiny_run.folder)
    corpus = read_json_lines(folder / "example.jsonl", model.weights.signature)
    return corpus.splits["test"], model, corpus.signature.speakers


def show(page, path):
    """Choose a file; wait for everything that is to be said of its first conversation."""
    page.choose("#file", path)
    first = json.dumps(json.loads(path.read_text().splitlines()[0])["id"])
    page.wait(
        f"document.querySelector('.cards').getAttribute('aria-label')?.endsWith({first}) && {DONE}"
    )


def open_example(page):
    page.wait(READY)
    page.click("#example")
    page.wait(DONE)


def write_lines(path, *conversations):
    path.write_text("".join(json.dumps(each) + "\n" for each in conversations))
    return path


def lines_of(folder):
    return [json.loads(line) for line in (folder / "example.jsonl").read_text().splitlines()]


@pytest.fixture
def predictions(page, tmp_path):
    """A function that downloads them."""
    target = tmp_path / "downloads"
    page.download_into(target)

    def download():
        path = target / "predictions.json"
        path.unlink(missing_ok=True)
        page.wait(DONE)
        page.click("#download")
        for _ in range(200):
            page.run("new Promise(resume => setTimeout(resume, 50))")
            if path.exists() and path.read_text().endswith("}\n"):
                return json.loads(path.read_text())
        raise AssertionError("nothing was downloaded")

    return download


def arrays(said):
    utterances = said["utterances"]
    return tuple(
        np.array([list(each[name].values()) for each in utterances])
        for name in ("probabilities", "contributions")
    )


def assert_same(said, expected):
    probability, contribution = arrays(said)
    np.testing.assert_allclose(probability, expected.probability, atol=TOLERANCE)
    np.testing.assert_allclose(contribution, expected.contribution, atol=TOLERANCE)


def test_the_example_is_shown_as_python_predicts_it(page, predictions, truth):
    conversations, model, speakers = truth
    open_example(page)
    first, expected = conversations[0], model.explain(conversations[0])
    assert_same(predictions(), expected)
    shown = page.run(f"{CARDS}.map(c => [...c.children].map(s => s.textContent))")
    assert len(shown) == len(first)
    labels = model.labels
    for i, text in enumerate(shown):
        decided = labels[expected.probability[i].argmax()]
        known, speaker = labels[first.label[i]], speakers[first.speaker[i]]
        also = "" if decided == known else f", not {known} as in the file"
        assert text == [
            decided, f"{i + 1} · {100 * expected.probability[i].max():.0f}\N{NO-BREAK SPACE}%",
            first.transcript[i], f"said by {speaker}{also}",
        ]  # fmt: skip
    lanes = page.run("[...document.querySelectorAll('.lanes div')].map(lane => lane.textContent)")
    assert lanes == list(dict.fromkeys(speakers[each] for each in first.speaker))
    right = sum(
        labels[p.argmax()] == labels[y]
        for p, y in zip(expected.probability, first.label, strict=True)
    )
    assert f"{right} of {len(first)} as labelled" in page.text("#status")


def test_an_utterance_is_explained(page, truth):
    conversations, model, _ = truth
    open_example(page)
    i = len(conversations[0]) - 1
    page.click(f".card:nth-child({i + 1})")
    expected = model.explain(conversations[0])
    assert page.text("#detail-title").startswith(f"Utterance {i + 1}, ")
    rows = page.run(
        "[...document.querySelectorAll('#probabilities tbody tr')]"
        ".map(r => [r.cells[0].innerText, Number(r.cells[2].innerText), r.className])"
    )
    assert [row[0] for row in rows] == list(model.labels)
    np.testing.assert_allclose([row[1] for row in rows], 100 * expected.probability[i], atol=0.06)
    decided = model.labels[expected.probability[i].argmax()]
    assert [row[0] for row in rows if row[2] == "decided"] == [decided]
    rows = page.run(
        "[...document.querySelectorAll('#contributions tbody tr')]"
        ".map(r => [0, 2, 3].map(i => r.cells[i].innerText))"
    )
    assert [row[0] for row in rows] == list(MODALITIES)
    found = [float(row[1].replace("−", "-")) for row in rows]
    np.testing.assert_allclose(found, expected.contribution[i], atol=0.006)
    for row, present in zip(rows, expected.present[i], strict=True):
        assert row[2] == ("seen" if present else "missing")
    assert page.text("#transcript") in (expected.transcript[i], "(no transcript)")
    assert f"The model says {decided}" in page.text("#decision")


def without(conversation, *hidden):
    present, changed = conversation.present.copy(), {}
    for name in hidden:
        present[:, MODALITIES.index(name)] = False
        changed[name] = np.zeros_like(getattr(conversation, name))
    return dataclasses.replace(conversation, present=present, **changed)


def test_a_modality_that_is_switched_off_is_missing(page, predictions, truth):
    conversations, model, _ = truth
    open_example(page)
    page.click("#modalities input[value=text]")
    said = predictions()
    assert said["settings"] == {"modalities": ["audio", "visual"], "noise": 0}
    assert not any(each["present"]["text"] for each in said["utterances"])
    assert_same(said, model.explain(without(conversations[0], "text")))
    page.click("#modalities input[value=audio]")
    page.click("#modalities input[value=visual]")
    assert_same(predictions(), model.explain(without(conversations[0], *MODALITIES)))
    assert "The model sees nothing" in page.text("#status")
    for name in MODALITIES:
        page.click(f"#modalities input[value={name}]")
    assert_same(predictions(), model.explain(conversations[0]))


def gaussian(size, seed):
    """mulberry32 and Box-Muller, as in inputs.js."""
    state, mask = seed, 0xFFFFFFFF

    def uniform():
        nonlocal state
        state = (state + 0x6D2B79F5) & mask
        t = (state ^ state >> 15) * (1 | state) & mask
        t = (t + ((t ^ t >> 7) * (61 | t) & mask) & mask) ^ t
        return ((t ^ t >> 14) & mask) / 2**32

    numbers = []
    while len(numbers) < size:
        radius, angle = math.sqrt(-2 * math.log(1 - uniform())), 2 * math.pi * uniform()
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(numbers[:size], np.float32)


def test_noise_is_measured_in_training_deviations_and_drawn_the_same_each_time(
    page, predictions, truth, folder
):
    conversations, model, _ = truth
    deviation = json.loads((folder / "model.json").read_text())["deviation"]
    noisy = {}
    for name, seed in (("audio", 2), ("visual", 3)):
        x = getattr(conversations[0], name)
        there = conversations[0].present[:, [MODALITIES.index(name)]]
        drawn = gaussian(x.size, seed).reshape(x.shape)
        noisy[name] = np.where(there, x + 1.5 * np.array(deviation[name]) * drawn, 0)
        noisy[name] = noisy[name].astype(np.float32)
    open_example(page)
    before = predictions()
    page.run("document.getElementById('noise').focus()")
    for _ in range(15):
        page.press("ArrowRight")
    assert page.text("#noise-said") == "1.5 deviations"
    said = predictions()
    assert said["settings"]["noise"] == 1.5
    assert_same(said, model.explain(dataclasses.replace(conversations[0], **noisy)))
    page.run("document.getElementById('noise').focus()")
    page.press("Home")
    assert predictions() == before


def test_files_of_several_conversations_chosen_or_dropped(page, predictions, truth, folder):
    conversations, model, _ = truth
    page.drop(folder / "example.jsonl")
    page.wait(DONE)
    assert page.run("[...document.querySelectorAll('#conversation option')].map(o => o.text)") == [
        each.id for each in conversations
    ]
    page.run(
        "(() => { const s = document.getElementById('conversation'); s.value = '2';"
        "s.dispatchEvent(new Event('change')) })()"
    )
    said = predictions()
    assert said["conversation"] == conversations[2].id
    assert_same(said, model.explain(conversations[2]))
    assert page.run("document.body.className") == ""


def test_csv_says_the_same_as_json_lines(page, predictions, folder, truth, tmp_path):
    first = lines_of(folder)[0]
    first["utterances"][0]["transcript"] = 'He said "no", twice\nand left'
    widths = {m: getattr(truth[0][0], m).shape[1] for m in MODALITIES}
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{m}_{i}" for m in MODALITIES for i in range(widths[m])]
        writer.writerow(["conversation", "speaker", "label", "transcript", *columns])
        for row in first["utterances"]:
            cells = [x for m in MODALITIES for x in row[m] or [None] * widths[m]]
            writer.writerow([first["id"], row["speaker"], row["label"], row["transcript"], *cells])
    page.choose("#file", path)
    page.wait(DONE)
    said = predictions()
    assert said["utterances"][0]["transcript"] == first["utterances"][0]["transcript"]
    assert_same(said, truth[1].explain(truth[0][0]))


def bad(change):
    def content(line):
        change(line)
        return json.dumps(line)

    return content


def edit(**fields):
    return bad(lambda line: line["utterances"][1].update(fields))


BAD = {
    "not JSON": (lambda line: json.dumps(line)[:-9], ["line 1", "not JSON", "one whole conver"]),
    "no conversation": (lambda line: "\n \n", ["there is no conversation in it"]),
    "misspelt": (edit(vidio=[1]), ["field utterances[1]", '"vidio"', "Known are speaker, text"]),
    "too narrow": (edit(audio=[1, 2]), ["utterances[1].audio", "2 numbers", "The model takes 5"]),
    "infinite": (edit(audio=[1, 2, 3, 4, 1e300]), ["utterances[1].audio", "1e+300", "finite"]),
    "words": (edit(text="well"), ["utterances[1].text", "a text where a list of numbers"]),
    "mixed": (edit(visual=[1, 2, None, 4]), ["utterances[1].visual", "null is not a finite"]),
    "label": (edit(label="bored"), ["utterances[1].label", '"bored"', "Known are "]),
    "speaker": (edit(speaker=None), ["utterances[1].speaker", "null is not a speaker's name"]),
    "empty": (bad(lambda line: line.update(utterances=[])), ["field utterances", "an empty list"]),
    "id": (bad(lambda line: line.pop("id")), ["line 1, field id", "nothing is not an id"]),
    "twice": (lambda line: f"{json.dumps(line)}\n{json.dumps(line)}", ["line 2", "that of line 1"]),
    "nothing": (
        bad(lambda line: [u.update(dict.fromkeys(MODALITIES)) for u in line["utterances"]]),
        ["no utterance has features", "Transcripts alone are not read"],
    ),
    "list": (lambda line: json.dumps([line]), ["line 1: a list where an object"]),
    "CSV column": (lambda _: "conversation,speaker,mood\n", ["line 1", '"mood"', "Known are"]),
    "CSV gap": (lambda _: "conversation,speaker,audio_0\n", ["there is no column audio_1"]),
    "CSV wide": (lambda _: "conversation,speaker,audio_9\n", ["audio_9", "takes 5 audio columns"]),
    "CSV cells": (
        lambda _: "conversation,speaker,transcript\na,Ann,Well, no\n", ["line 2: 4 cells", "has 3"],
    ),
    "CSV number": (
        lambda _: "conversation,speaker,visual_0,visual_1,visual_2,visual_3\na,Ann,1,2,x,4\n",
        ["line 2, field visual_2", '"x" is not a number'],
    ),
    "CSV half": (
        lambda _: "conversation,speaker,visual_0,visual_1,visual_2,visual_3\na,Ann,1,,2,4\n",
        ["line 2, field visual_1", "empty, though others are not"],
    ),
    "CSV quote": (lambda _: 'conversation,speaker\na,"Ann\n', ["line 2", "not closed"]),
    "not UTF-8": (lambda _: b"\xff\xfe{\x00", ["not UTF-8", "Save the file as UTF-8"]),
}  # fmt: skip


def test_bad_files_are_refused_with_their_place_and_the_fix(page, folder, tmp_path):
    path = tmp_path / "bad.jsonl"
    open_example(page)
    before = page.text(".cards")
    for name, (change, expected) in BAD.items():
        content = change(lines_of(folder)[0])
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        page.run("document.getElementById('problem').textContent = ''")
        page.choose("#file", path)
        told = page.wait("document.getElementById('problem').textContent")
        assert told.startswith("bad.jsonl was not opened. "), name
        assert not [each for each in expected if each.lower() not in told.lower()], (name, told)
        assert "still there" in told
    assert page.run("document.getElementById('problem').role") == "alert"
    assert page.text(".cards") == before
    assert page.run(DONE)
    show(page, folder / "example.jsonl")
    assert page.text("#problem") == ""


def test_texts_of_strangers_stay_texts(page, folder, tmp_path):
    line = lines_of(folder)[0]
    line["id"] = ATTACK
    for row in line["utterances"]:
        row |= {"speaker": ATTACK, "transcript": ATTACK}
    show(page, write_lines(tmp_path / "attack.jsonl", line))
    assert page.run("document.querySelectorAll('img, script:not([src])').length") == 0
    assert page.run("document.title").startswith("redifu")
    assert page.text("#transcript") == ATTACK
    line["utterances"][0]["label"] = ATTACK
    page.choose("#file", write_lines(tmp_path / "attack.jsonl", line))
    assert "<script>" in page.wait("document.getElementById('problem').textContent")
    assert page.run("document.querySelectorAll('img, script:not([src])').length") == 0


def test_the_timeline_is_walked_with_the_keyboard(page, truth):
    open_example(page)
    first = truth[0][0]
    last = len(first) - 1
    page.run("document.getElementById('noise').focus()")
    page.press("Tab")
    focused = f"{CARDS}.indexOf(document.activeElement)"
    assert page.run(focused) == 0
    across = int(np.flatnonzero(first.speaker != first.speaker[0])[0])
    lanes = list(dict.fromkeys(first.speaker.tolist()))
    below = int(np.flatnonzero(first.speaker == lanes[1])[0])
    assert across == below
    walk = (
        ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 0), ("End", last), ("ArrowRight", last),
        ("Home", 0), ("ArrowUp", 0), ("ArrowDown", below), ("PageDown", min(last, below + 10)),
        ("PageUp", max(0, min(last, below + 10) - 10)),
    )  # fmt: skip
    for key, place in walk:
        page.press(key)
        assert page.run(focused) == place, key
        assert page.text("#detail-title").startswith(f"Utterance {place + 1}, ")
        assert page.run(f"{CARDS}.filter(c => c.tabIndex === 0).length") == 1
        assert page.run(f"{CARDS}.findIndex(c => c.ariaSelected === 'true')") == place
    seen = page.run(
        "(() => { const c = document.activeElement.getBoundingClientRect(), "
        "t = document.getElementById('timeline').getBoundingClientRect(), "
        "l = document.querySelector('.lanes').getBoundingClientRect();"
        "return c.left >= l.right - 1 && c.right <= t.right + 1 })()"
    )
    assert seen
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Tab")
    assert page.run("document.activeElement.id") == "download"


def test_everything_has_a_name(page):
    open_example(page)
    unnamed = page.run(
        "[...document.querySelectorAll('button, select, input:not([hidden]), [role=listbox], "
        "main section')].filter(e => !(e.ariaLabel || e.getAttribute('aria-labelledby') || "
        "e.labels?.length || e.innerText)).map(e => e.outerHTML)"
    )
    assert unnamed == []
    assert page.run("document.querySelectorAll('main, header, footer').length") == 3
    assert page.run("document.getElementById('status').role") == "status"


LONG = 500


def test_five_hundred_utterances_leave_the_page_alive(page, folder, predictions, tmp_path, truth):
    line = lines_of(folder)[0]
    rows = line["utterances"]
    line |= {"id": "long", "utterances": [rows[i % len(rows)] for i in range(LONG)]}
    path = write_lines(tmp_path / "long.jsonl", line)
    show(page, path)
    page.run("document.getElementById('noise').focus()")
    # What the page does beside computing: nothing, if it computed itself.
    page.run(
        "window.beside = 0;"
        f"(function tick() {{ if (!({DONE})) beside += 1; setTimeout(tick, 1) }})()"
    )
    for _ in range(10):
        page.press("ArrowRight")
    page.press("Home")
    page.wait(DONE)
    assert page.run(f"{CARDS}.length") == LONG
    assert page.run("beside") > 10
    conversation = read_json_lines(path, truth[1].weights.signature).splits["test"][0]
    assert_same(predictions(), truth[1].explain(conversation))


def width(page):
    return page.run("document.documentElement.scrollWidth")


def test_a_phone_shows_it_without_scrolling_sideways(page, folder, tmp_path):
    page.resize(360, 740)
    assert width(page) <= 360
    page.run("document.getElementById('format').open = true")
    assert width(page) <= 360
    line = lines_of(folder)[0]
    line["id"] = "an_identifier_without_any_space_" * 6
    for i, row in enumerate(line["utterances"]):
        row |= {"speaker": f"{i % 3}" + "Bartholomew" * 8, "transcript": "wow" * 200}
    show(page, write_lines(tmp_path / "wide.jsonl", line))
    assert width(page) <= 360
    line["utterances"][0] |= {"text": None, "unheard_of" * 30: 1}
    page.choose("#file", write_lines(tmp_path / "bad.jsonl", line))
    page.wait("document.getElementById('problem').textContent")
    assert width(page) <= 360
    page.click(".card:nth-child(4)")
    assert page.text("#detail-title").startswith("Utterance 4")


def test_dark_where_dark_is_preferred(page):
    open_example(page)
    read = (
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,"
        "getComputedStyle(document.querySelector('.card')).color]"
    )
    assert page.run(read) == ["rgb(255, 255, 255)", "rgb(26, 26, 26)", "rgb(26, 26, 26)"]
    page.resize(1200, dark=True)
    assert page.run(read) == ["rgb(23, 25, 28)", "rgb(236, 236, 236)", "rgb(26, 26, 26)"]


def test_nothing_is_kept_unless_asked(page, address):
    open_example(page)
    page.click("#modalities input[value=audio]")
    page.wait(DONE)
    assert page.run("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.click("#remember")
    assert page.run("Object.keys(localStorage)") == ["emojax.settings"]
    assert "validation" not in page.run("JSON.stringify(localStorage)")
    page.open(address)
    open_example(page)
    checked = "[...document.querySelectorAll('#modalities input')].map(b => b.checked)"
    assert page.run(checked) == [True, False, True]
    page.click("#remember")
    assert page.run("localStorage.length") == 0


def test_the_speakers_of_a_model_that_embeds_them_are_the_only_ones(tab, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    description = json.loads((copy / "model.json").read_text())
    description |= {"embeds_speakers": True}
    (copy / "model.json").write_text(json.dumps(description))
    line = lines_of(folder)[0]
    line["utterances"][0]["speaker"] = "Zoe"
    server = served(copy)
    tab.open(f"http://127.0.0.1:{server.server_port}/")
    tab.wait(READY)
    tab.choose("#file", write_lines(tmp_path / "zoe.jsonl", line))
    told = tab.wait("document.getElementById('problem').textContent")
    assert 'the model does not know "Zoe"' in told
    assert ", ".join(description["speakers"]) in told
    server.shutdown()
    server.server_close()


def test_a_folder_without_its_model_says_so(tab, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.onnx").unlink()
    server = served(copy)
    tab.open(f"http://127.0.0.1:{server.server_port}/")
    told = tab.wait("document.getElementById('problem').textContent")
    assert told.startswith("The model could not be run: ")
    server.shutdown()
    server.server_close()


def test_the_page_talks_to_its_own_address_alone(page, address):
    open_example(page)
    asked = page.requests()
    paths = {urllib.parse.urlsplit(url).path for url in asked if url.startswith(address)}
    assert {"/model.onnx", "/worker.js", "/onnxruntime/ort-wasm-simd-threaded.wasm"} <= paths
    # The policy, not good manners alone, keeps it so.
    refused = page.run(
        "new Promise(resolve => { addEventListener('securitypolicyviolation', "
        "e => resolve(e.violatedDirective)); fetch('http://192.0.2.1/').catch(() => {}) })"
    )
    assert refused == "connect-src"
    page.browser.events.clear()  # of what was just provoked
