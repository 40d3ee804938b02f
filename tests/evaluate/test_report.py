"""A report read back: JSON, Markdown, HTML by a parser, and by a browser where there is one."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from emojax.errors import DataError
from emojax.evaluate.bootstrap import bootstrap
from emojax.evaluate.decisions import pick_conversation
from emojax.evaluate.metrics import majority_scores, score
from emojax.evaluate.report import Report, plain, write_report
from tests.evaluate.samples import LABELS, SPEAKERS, predict, sample
from tests.pages import ATTACK, Page


def make_report(**changes) -> Report:
    history = [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "train_loss": 2.0 / epoch,
            "validation": {"loss": 1.8 / epoch, "weighted_f1": 0.1 * epoch},
            "learning_rate": np.float32(1e-3),
            "seconds": 1.5,
        }
        for epoch in range(1, 5)
    ]
    report = Report(
        name="ReDiFu, seed 3",
        labels=LABELS,
        speakers=SPEAKERS,
        validation=sample(6, seed=1),
        test=sample(10, seed=2),
        history=history,
        selection={
            "rule": "highest weighted F1 on validation",
            "metric": "weighted_f1",
            "epoch": 4,
            "step": 40,
            "value": 0.4,
        },
        provenance={
            "seed": 3,
            "config": {"model": {"name": "redifu", "width": 64}},
            "config_hash": "9f2c",
            "versions": {"jax": "0.10"},
            "devices": ["cpu:0"],
            "parameters": np.int64(1_234_567),
            "wall_seconds": float("nan"),
            "folder": Path("run"),
        },
        skipped=["Ses01: NaN in text"],
        majority_label=2,
        resamples=100,
    )
    return dataclasses.replace(report, **changes)


def hostile_report() -> Report:
    def attack(predictions):
        return [
            dataclasses.replace(p, id=f"{p.id}{ATTACK}", transcript=(ATTACK,) * len(p.label))
            for p in predictions
        ]

    report = make_report()
    return dataclasses.replace(
        report,
        name=ATTACK,
        labels=(f"a{ATTACK}", "b\n# Heading", "$c", "{{ 7 * 7 }}"),
        speakers=(ATTACK, "</table>", "javascript:alert(1)"),
        validation=attack(report.validation),
        test=attack(report.test),
        selection={"rule": ATTACK, "metric": "weighted_f1", "epoch": 4},
        provenance={ATTACK: ATTACK, "config": {ATTACK: [ATTACK]}},
        reference={"bayes_accuracy": 0.8, "majority_accuracy": 0.3, "reached": 0.9, "text": ATTACK},
        skipped=[ATTACK],
    )


def strict_json(path: Path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    report = make_report()
    return report, write_report(tmp_path_factory.mktemp("report"), report)


def test_json_holds_every_score_with_its_interval(written):
    report, paths = written
    content = strict_json(paths["json"])
    assert content["schema_version"] == 1
    for split, predictions in (("test", report.test), ("validation", report.validation)):
        found = content["splits"][split]
        scores = score(predictions, 4)
        intervals = bootstrap(predictions, 4, seed=0, resamples=100)
        assert (found["dialogues"], found["utterances"]) == (scores.dialogues, scores.utterances)
        for name in ("accuracy", "weighted_f1", "macro_f1", "nll", "ece", "brier"):
            assert found[name] == {
                "value": getattr(scores, name),
                "low": intervals.low[name],
                "high": intervals.high[name],
            }
        for index, entry in enumerate(found["classes"]):
            assert (entry["label"], entry["support"]) == (LABELS[index], scores.support[index])
            for name in ("precision", "recall", "f1"):
                assert entry[name] == {
                    "value": getattr(scores, name)[index],
                    "low": intervals.low[name][index],
                    "high": intervals.high[name][index],
                }
        assert found["confusion"]["counts"] == scores.confusion.tolist()
        assert found["calibration"]["count"] == scores.bin_count.tolist()
        assert found["majority"] == {"label": "neutral", **majority_scores(scores, 2)}
    assert content["protocol"]["selection"]["rule"] == "highest weighted F1 on validation"
    assert content["protocol"]["test_read"] is True
    assert content["provenance"]["parameters"] == 1_234_567
    assert content["provenance"]["wall_seconds"] is None
    assert content["provenance"]["config"] == {"model": {"name": "redifu", "width": 64}}
    assert content["skipped"] == {"count": 1, "items": ["Ses01: NaN in text"]}
    assert content["conversation"]["id"] == pick_conversation(report.test).id
    assert len(content["history"]) == 4


def test_markdown_shows_scores_and_its_pictures_exist(written):
    report, paths = written
    text = paths["markdown"].read_text("utf-8")
    scores, intervals = score(report.test, 4), bootstrap(report.test, 4, seed=0, resamples=100)
    low, high = intervals.low["weighted_f1"], intervals.high["weighted_f1"]
    cell = f"{100 * scores.weighted_f1:.1f} ({100 * low:.1f}–{100 * high:.1f})"
    assert f"| Weighted F1, % | {cell} |" in text
    assert f"{scores.utterances} utterances of {scores.dialogues} dialogues" in text
    assert "The test split was read once, after the model was selected on validation." in text
    assert "highest weighted F1 on validation" in text
    pictures = re.findall(r"!\[[^]]*]\(([^)]+)\)", text)
    assert len(pictures) == 4
    for picture in pictures:
        file = paths["markdown"].parent / picture
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file in paths.values()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_the_page_shows_scores_words_and_pictures(written):
    report, paths = written
    page = Page(paths["html"].read_text("utf-8"))
    scores = score(report.test, 4)
    for value in (scores.accuracy, scores.weighted_f1, scores.macro_f1, *scores.f1):
        assert f"{100 * value:.1f}" in page.text
    assert f"{scores.nll:.3f}" in page.text
    shown = pick_conversation(report.test)
    assert all(words in page.text for words in shown.transcript)
    mistakes = (shown.label >= 0) & (shown.probability.argmax(-1) != shown.label)
    assert page.text.count("✗") == mistakes.sum() > 0
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "src")]
    assert len(images) == 4
    for source in images:
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        ElementTree.fromstring(base64.b64decode(data))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return write_report(tmp_path_factory.mktemp("hostile"), hostile_report())


def test_strangers_texts_are_shown_and_never_run(hostile):
    page = Page(hostile["html"].read_text("utf-8"))
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    # Title, headline conversation, words of the conversation, speakers, rule, provenance, ...
    assert page.text.count(ATTACK) > 10
    assert "{{ 7 * 7 }}" in page.text
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "action", "data", "srcset"):
            assert value.startswith(("data:image/svg+xml;base64,", "#")), (tag, name, value)
    style = hostile["html"].read_text("utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = [v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "default" in v]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_strangers_texts_keep_markdown_whole(hostile):
    text = hostile["markdown"].read_text("utf-8")
    assert not re.search(r"(?<!\\)<", text)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert not any("Heading" in line for line in headings)
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1


def test_a_report_without_test_says_so(tmp_path):
    report = make_report(test=None, history=[], majority_label=None)
    paths = write_report(tmp_path, report)
    assert "learning_curves" not in paths
    content = strict_json(paths["json"])
    assert list(content["splits"]) == ["validation"]
    assert content["splits"]["validation"]["majority"] is None
    for name in ("markdown", "html"):
        text = paths[name].read_text("utf-8")
        assert "The test split was not read" in text
        assert "read once" not in text
        assert "Learning curves" not in text


def test_one_dialogue_is_reported_without_intervals(tmp_path):
    paths = write_report(tmp_path, make_report(test=sample(1), validation=[]))
    split = strict_json(paths["json"])["splits"]["test"]
    assert split["accuracy"]["low"] is None
    assert split["confusion"]["rate_low"] is None
    assert split["accuracy"]["value"] == score(sample(1), 4).accuracy


def test_the_share_of_the_possible_is_told(tmp_path):
    known = {"bayes_accuracy": 0.8125, "majority_accuracy": 0.25, "reached": 0.9634, "text": "Sim."}
    paths = write_report(tmp_path, make_report(reference=known))
    assert strict_json(paths["json"])["reference"] == known
    for name in ("markdown", "html"):
        text = paths[name].read_text("utf-8")
        assert "The model went 96.3 % of the way" in text
        assert "ROC-AUC" not in text
    assert "width: 96.34%" in paths["html"].read_text("utf-8")


def test_how_well_contradictions_tell_is_told(tmp_path):
    found = {"utterances": 90, "positives": 11, "roc_auc": 0.9312, "bayes_roc_auc": 0.978}
    paths = write_report(tmp_path, make_report(reference={"text": "Sim.", "contradiction": found}))
    for name in ("markdown", "html"):
        text = paths[name].read_text("utf-8")
        assert "Of 90 utterances with words 11 use another emotion" in text
        assert "ROC-AUC of 0.931; the exact posterior has 0.978" in text


def test_contradictions_stand_beside_the_words(tmp_path):
    (prediction,) = sample(1, lengths=(9, 9), seed=3)
    heard = prediction.present[:, 0]
    value = np.where(heard, np.linspace(0.1, 0.9, 9), np.nan)
    measured = dataclasses.replace(prediction, contradiction=value)
    for one, columns in ((prediction, 7), (measured, 8)):
        paths = write_report(tmp_path, make_report(test=[one]))
        html = paths["html"].read_text("utf-8")
        table = re.search(r'<table class="words">.*?</table>', html, re.DOTALL)
        assert table is not None
        rows = [re.findall(r"<t[dh].*?>(.*?)</t[dh]>", row) for row in table[0].split("<tr")[1:]]
        assert {len(row) for row in rows} == {columns}
    told = [row[-1] for row in rows[1:]]
    assert told == [f"{100 * v:.0f}" if h else "–" for v, h in zip(value, heard, strict=True)]
    assert "–" in told


def test_the_same_report_gives_the_same_files(tmp_path):
    one = write_report(tmp_path / "one", make_report())
    two = write_report(tmp_path / "two", make_report())
    for name, path in one.items():
        assert path.read_bytes() == two[name].read_bytes()


def test_nothing_is_written_of_a_report_that_cannot_be():
    unlabelled = [predict([-1], [[1, 0, 0, 0]])]
    for report in (
        make_report(test=unlabelled),
        make_report(test=None, validation=[]),
        make_report(speakers=("one",)),
    ):
        folder = Path("does-not-exist")
        with pytest.raises(DataError):
            write_report(folder, report)
        assert not folder.exists()


def test_plain_values_are_json():
    value = {1: np.float32(0.5), "a": (np.arange(2), {3, 1}), "b": [float("inf"), None, True]}
    assert plain(value) == {"1": 0.5, "a": [[0, 1], [1, 3]], "b": [None, None, True]}


FRAME = """<iframe src="report.html" style="width:390px;height:800px"
 onload="const d = this.contentDocument; document.title = JSON.stringify({
  title: d.title, wide: d.documentElement.scrollWidth, images: [...d.images].map(
    i => i.complete && i.naturalWidth > 0)})"></iframe>"""


@pytest.mark.parametrize("fixture", ["written", "hostile"])
def test_a_browser_shows_the_page_on_a_phone_and_runs_nothing(fixture, browse, request):
    value = request.getfixturevalue(fixture)
    paths = value if isinstance(value, dict) else value[1]
    frame = paths["html"].parent / "phone.html"
    frame.write_text(FRAME)
    title = Page(browse(frame)).text.split("}")[0] + "}"
    seen = json.loads(title[title.index("{") :])
    assert seen["title"] == (" ".join(ATTACK.split()) if fixture == "hostile" else "ReDiFu, seed 3")
    assert seen["images"] == [True] * 4
    assert seen["wide"] <= 390


@pytest.mark.parametrize(
    ("invariant", "words"), [(True, "do not matter"), (False, "BATCH MATES MATTER")]
)
def test_what_was_measured_of_batch_mates_is_said(tmp_path, invariant, words):
    found = {"conversations": 8, "largest": 0.25, "invariant": invariant}
    paths = write_report(tmp_path, make_report(batch_mates=found))
    assert json.loads(paths["json"].read_text())["protocol"]["batch_mates"] == found
    for page in ("html", "markdown"):
        text = paths[page].read_text()
        assert words in text
        assert "2.5e-01 when nothing else is in the batch (8 conversations" in text.replace(
            "\\", ""
        )


@pytest.mark.parametrize(
    ("seen", "words"),
    [(True, "sees the future: probabilities change by up to 2.5e-01"),
     (False, "does not see the future: probabilities change by at most 2.5e-01")],
)  # fmt: skip
def test_what_was_measured_of_the_future_is_said(tmp_path, seen, words):
    found = {"conversations": 8, "largest": 0.25, "seen": seen}
    paths = write_report(tmp_path, make_report(future=found))
    assert json.loads(paths["json"].read_text())["protocol"]["future"] == found
    for page in ("html", "markdown"):
        text = paths[page].read_text().replace("\\", "")
        assert words in text
        assert "(8 conversations measured)" in text
