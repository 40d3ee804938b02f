"""Audit cards say what their runs were; the page of a study stands alone and holds all of it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from emojax.config import MODELS
from emojax.errors import ConfigError
from emojax.evaluate.invariance import TOLERANCE
from emojax.train.evaluation import evaluate_run
from experiments import cards, html, tables
from experiments.outcome import result_of
from experiments.published import FILE, Figure, figures
from experiments.run import draw
from experiments.sheet import Sheet
from experiments.store import METRICS, Result, Store
from tests.pages import ATTACK, Page
from tests.tiny_run import emojax

PADDED = """
[data]
layout = "padded"
buckets = [16]
batch_conversations = 6
[model]
name = "redifu_authors"
width = 16
heads = 4
[train]
epochs = 1
"""


@pytest.fixture(scope="module")
def store(tiny_run, tmp_path_factory) -> Store:
    """redifu and redifu_authors, trained on the same conversations, read from their file."""
    place = tmp_path_factory.mktemp("cards")
    (place / "padded.toml").write_text(PADDED)
    done = emojax(
        "train", "--config", place / "padded.toml", "--data", tiny_run.source, "--out",
        place / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = Store(place / "results.jsonl")
    written.append(result_of(tiny_run.folder, "ours"))
    written.append(result_of(place / "run", "theirs"))
    return Store(written.path)


def card_of(results, variant: str, published=()) -> cards.Card:
    (found,) = cards.cards(results, [variant], published)
    return found


def facts(card: cards.Card) -> dict[str, str]:
    return {what.text: value.text for what, value in card.facts.rows}


def test_the_published_model_fails_on_its_card_and_redifu_passes(store):
    ours, theirs = (card_of(store.results, name) for name in ("ours", "theirs"))
    assert (ours.model, theirs.model) == ("redifu", "redifu_authors")
    assert [(v.word, v.kept) for v in ours.verdicts] == [("PASS", True), ("SEEN", None)]
    assert [(v.word, v.kept) for v in theirs.verdicts] == [("FAIL", False), ("SEEN", None)]
    largest = store.results[1].audit["batch_mates"]["largest"]
    assert largest > TOLERANCE
    assert f"change by up to {largest:.1e} when nothing else" in theirs.verdicts[0].text

    text = cards.markdown([ours, theirs], "cards")
    passed, failed = text.split("## theirs")
    assert "- Batch mates: **PASS**, probabilities of a conversation change by at most" in passed
    assert "- Batch mates: **FAIL**, probabilities of a conversation change by up to" in failed
    page = Page(html.page("a study", "Why?", [], [], [ours, theirs])).text
    assert "Batch mates: PASS" in page.split("theirs")[0]
    assert "Batch mates: FAIL" in page


def test_an_audit_is_that_of_its_run(store, tiny_run):
    found = store.results[0]
    report = json.loads(evaluate_run(tiny_run.folder).paths["json"].read_text())
    told, protocol = report["provenance"], report["protocol"]
    assert found.audit["selection"] == protocol["selection"]
    for name in ("batch_mates", "future"):
        # The report's program explains decisions as well, so its rounding is its own.
        ours, theirs = dict(found.audit[name]), dict(protocol[name])
        assert ours.pop("largest") == pytest.approx(theirs.pop("largest"), abs=1e-6)
        assert ours == theirs
    same = (
        "config", "dataset", "split_rule", "split_hashes", "flops_per_conversation", "devices",
        "versions", "lanes", "peak_memory_mib",
    )  # fmt: skip
    for name in same:
        assert found.audit[name] == told[name]
    assert found.audit["config"]["model"]["width"] == 16
    bins = {name: np.array(values) for name, values in found.audit["reliability"].items()}
    total = bins["count"].sum()
    assert total == len(found.right)
    gap = abs(bins["accuracy"] - bins["confidence"]) @ bins["count"] / total
    assert gap == pytest.approx(found.scores["test"]["ece"], abs=1e-4)
    right = bins["accuracy"] @ bins["count"] / total
    assert right == pytest.approx(found.scores["test"]["accuracy"], abs=1e-4)


def test_a_card_tells_what_its_run_was(store):
    found = store.results[0]
    card = card_of(store.results, "ours")
    told = facts(card)
    assert told["Seeds"] == "3"
    assert told["Accuracy on test"] == f"{100 * found.scores['test']['accuracy']:.1f} %"
    assert told["Selection"] == found.audit["selection"]["rule"]
    assert told["Epoch selected"].startswith(f"{found.audit['selection']['epoch']}.0, from")
    for split, hashes in found.audit["split_hashes"].items():
        assert told[f"Hashes of {split}"] == (
            f"ids {hashes['ids'][:12]}, content {hashes['content'][:12]}"
        )
    assert told["Parameters"] == f"{found.parameters:,}"
    assert "of matrix products, forward, for 7 utterances" in told["FLOPs per conversation"]
    assert told["Training"] == f"{found.seconds:.1f} s a run"
    assert json.loads(card.config) == found.audit["config"]
    assert any("1 seed: a claim takes 10" in text for text in card.warnings)


def several(store, count: int, **changes) -> list[Result]:
    """As if redifu had been trained with so many seeds, each a little better than the last."""
    first = store.results[0]
    found = []
    for seed in range(count):
        audit = json.loads(json.dumps(first.audit)) | {"test_reads": 1}
        audit["config"]["train"]["seed"] = seed
        audit["selection"]["epoch"] = 1 + seed % 2
        scores = {split: dict.fromkeys(METRICS, 0.5 + 0.01 * seed) for split in first.scores}
        found.append(dataclasses.replace(
            first, seed=seed, audit=audit, scores=scores, seconds=10.0 + seed, commit="a" * 40,
            **changes,
        ))  # fmt: skip
    return found


def test_seeds_are_one_card(store):
    results = several(store, 10)
    card = card_of(results, "ours")
    assert card.warnings == []
    told = facts(card)
    values = 50 + np.arange(10)
    assert told["Accuracy on test"] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f} %"
    assert told["Training"] == f"14.5 ± {np.arange(10).std(ddof=1):.1f} s a run"
    assert told["Seeds"] == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert told["Epoch selected"] == "1.5 ± 0.5, from 1 to 2"
    assert told["Commit"] == "a" * 12
    one = store.results[0].audit["reliability"]
    np.testing.assert_array_equal(card.reliability["count"], 10 * np.array(one["count"]))
    np.testing.assert_allclose(card.reliability["accuracy"], one["accuracy"], atol=1e-12)
    assert card_of(results[:9], "ours").warnings == [
        "9 seeds: a claim takes 10, and differences may be chance."
    ]


def test_one_run_that_fails_is_a_variant_that_fails(store):
    results = several(store, 10)
    results[6].audit["batch_mates"] = {"conversations": 2, "largest": 0.125, "invariant": False}
    results[2].audit["future"] = {"conversations": 2, "largest": 0.5, "seen": True}
    mates, future = card_of(results, "ours").verdicts
    assert (mates.word, mates.kept) == ("FAIL", False)
    assert "by up to 1.2e-01" in mates.text
    assert future.word == "SEEN"
    for each in results:
        each.audit["future"] = {"conversations": 3, "largest": 1e-7, "seen": False}
    _, future = card_of(results, "ours").verdicts
    assert future.word == "NOT SEEN"
    assert "at most 1.0e-07" in future.text
    assert "(30 conversations of 10 runs)" in future.text
    for each in results:
        each.audit.update(batch_mates=None, future=None)
    assert [v.word for v in card_of(results, "ours").verdicts] == ["NOT MEASURED"] * 2


def test_whatever_makes_runs_unlike_is_told(store):
    results = several(store, 10)
    results[4].audit["config"]["model"]["width"] = 32
    results[5].audit["versions"]["jax"] = "0.0"
    results[6].audit["test_reads"] = 3
    results[7] = dataclasses.replace(results[7], commit="b" * 40 + "+")
    results[8] = dataclasses.replace(results[8], audit={})
    card = card_of(results, "ours")
    told = "\n".join(card.warnings)
    assert "1 of 10 seeds: not audited." in told
    assert "Runs differ in more than the seed: model.width." in told
    assert "read up to 3 times" in told
    assert "changes that are in no commit" in told
    assert len(card.warnings) == 4
    for each in results[:8]:
        each.audit["config"]["train"]["watch_test"] = True
    assert "scored the test split after every epoch" in "\n".join(card_of(results, "ours").warnings)
    assert facts(card)["Versions"].startswith("DIFFERENT: ")
    assert facts(card)["Commit"] == f"DIFFERENT: {'a' * 12}; {'b' * 12}+"


def test_programs_of_several_runs_are_told(store):
    results = several(store, 3)
    for each in results:
        each.audit["lanes"] = 3
    assert facts(card_of(results, "ours"))["Training"] == (
        "11.0 ± 1.0 s a run, a share of programs of up to 3 runs"
    )


def test_results_from_before_there_were_audits_are_still_read(store, tmp_path):
    path = tmp_path / "results.jsonl"
    line = json.loads(store.path.read_text().splitlines()[0])
    del line["audit"]
    path.write_text(json.dumps(line) + "\n")
    card = card_of(Store(path).results, "ours")
    assert [v.word for v in card.verdicts] == ["NOT MEASURED"] * 2
    assert "1 of 1 seed: not audited." in card.warnings
    assert facts(card)["Accuracy on test"]
    assert "ours" in Page(html.page("a study", "Why?", [], [], [card])).text


def test_published_figures_have_a_source_and_a_reason(store):
    known = figures()
    assert {each.model for each in known} <= set(MODELS)
    for each in known:
        assert each.source
        assert each.reason
        assert each.verdict("simulated").startswith("no: this study's corpus is simulated; ")
    card = card_of(store.results, "theirs", known)
    assert {row[3].text for row in card.published.rows} == {"arXiv:2603.25752"}
    ours = [dataclasses.replace(r, audit={}) for r in store.results]
    assert card_of(ours, "ours", known).published is None
    assert cards.UNPUBLISHED in cards.markdown([card_of(store.results, "ours")], "x")


def test_a_figure_compares_on_its_own_corpus_alone():
    figure = Figure(
        "sdt", "IEMOCAP, MELD", "F1", "here", "as here", "as here", True, "all alike", 60.0
    )
    assert figure.verdict("iemocap") == "yes: all alike"
    assert figure.verdict("MELD") == "yes: all alike"
    assert figure.verdict("mosi") == "no: this study's corpus is mosi; all alike"
    other = dataclasses.replace(figure, comparable=False, reason="chosen on test")
    assert other.verdict("meld") == "no: chosen on test"


@pytest.mark.parametrize(("change", "problem"), [
    ('model = "none"', "there is no model 'none'"), ("colour = 3", "colour"),
])  # fmt: skip
def test_a_figure_that_is_none_is_told(tmp_path, change, problem):
    entry = FILE.read_text().split("\n\n")[1]
    name = change.split(" ")[0]
    lines = [line for line in entry.splitlines() if not line.startswith(f"{name} ")]
    path = tmp_path / "published.toml"
    path.write_text("\n".join([*lines, change]))
    with pytest.raises(ConfigError, match=f"published.toml, figure 1: .*{problem}"):
        figures(path)


@pytest.fixture(scope="module")
def page(store) -> str:
    """A page whose every text comes from somebody with bad intentions."""
    results = [dataclasses.replace(r, variant=f"{r.variant}{ATTACK}") for r in store.results]
    for each in results:
        each.audit["corpus"] = ATTACK
        each.audit["config"] |= {ATTACK: {"a": ATTACK}}
    names = [r.variant for r in results]
    rows = tables.compare(results, names, names[0])
    sheet = Sheet(ATTACK, (*tables.HEADER[:-1], ATTACK), tables.cells(rows), ATTACK)
    figure = Figure("redifu", *[ATTACK] * 5, True, ATTACK, 1.0)
    svg = html.plots.themed(html.plots.render(tables.figure(rows, ATTACK), "svg"))
    pictures = [html.Picture(ATTACK, ATTACK, svg), html.Picture("PNG", "a dot", b"\x89PNG")]
    found = cards.cards(results, names, [figure])
    return html.page(ATTACK, f"{ATTACK}\n\n    {ATTACK}\n\n{ATTACK}", [sheet], pictures, found)


def test_strangers_texts_are_shown_and_never_run(page):
    found = Page(page)
    assert found.tags.count("script") == 1
    assert found.text.count("document.title='owned'") > 12
    for _, name, value in found.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "action", "data", "srcset"):
            assert value.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,"))
    outside = re.findall(r"https?://[^\s\"'<]*", re.sub(r"base64,[^\"]*", "", page))
    assert set(outside) == {"http://x.test/a"}  # within escaped words
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_lets_the_one_script_run_and_no_other(page):
    found = Page(page)
    (policy,) = [v for t, n, v in found.attributes if (t, n) == ("meta", "content") and "src" in v]
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_the_page_is_whole_and_can_be_read_aloud(page):
    found = Page(page)
    assert found.crossed == []
    assert {"main", "h1", "h2", "details", "summary"} <= set(found.tags)
    heads = [value for tag, name, value in found.attributes if (tag, name) == ("th", "scope")]
    assert len(heads) == found.tags.count("th")
    assert set(heads) == {"row", "col"}
    images = [value for tag, name, value in found.attributes if (tag, name) == ("img", "alt")]
    assert len(images) == found.tags.count("img") == 4
    assert all(images)
    assert ("html", "lang", "en") in found.attributes


def test_strangers_texts_keep_the_cards_markdown_whole(store):
    (result, *_) = store.results
    result = dataclasses.replace(result, variant=f"{ATTACK}\n# Heading")
    (card,) = cards.cards([result], [result.variant], figures())
    text = cards.markdown([card], ATTACK)
    assert not re.search(r"(?<!\\)<", text)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len(headings) == 4
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(bars) == 1


class Study:
    """Which is better?

        python -m experiments.run study

    It costs `nothing`.
    """

    VARIANTS = {"ours": [], "theirs": []}  # noqa: RUF012
    REFERENCE = "ours"


@pytest.fixture(scope="module")
def drawn(store, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drawn")
    draw(Study, "study", store, out)
    return out


def test_a_study_draws_its_cards_and_its_page(drawn):
    text = (drawn / "cards.md").read_text("utf-8")
    assert "## ours" in text
    assert "## theirs" in text
    found = Page((drawn / "table.html").read_text("utf-8"))
    assert "Which is better?" in found.text
    assert "python -m experiments.run study" in found.text
    assert "code" in found.tags
    assert found.tags.count("table") >= 5
    assert found.crossed == []
    for name in ("table.md", "table.tex", "accuracy.png"):
        assert (drawn / name).stat().st_size


FRAME = """<iframe src="table.html" style="width:390px;height:800px"
 onload="const d = this.contentDocument, heads = d.querySelectorAll('.sortable thead button');
  const names = () => [...d.querySelectorAll('.sortable tbody th')].map(cell => cell.textContent);
  const orders = [0, 0, 2, 2].map(n => {
    heads[n].click(); return [heads[n].parentNode.ariaSort, ...names()]; });
  document.title = JSON.stringify({orders, wide: d.documentElement.scrollWidth,
   images: [...d.images].every(i => i.complete && i.naturalWidth > 0)})"></iframe>"""


def test_a_browser_shows_the_page_on_a_phone_and_sorts_its_table(store, drawn, browse):
    frame = drawn / "phone.html"
    frame.write_text(FRAME)
    title = Page(browse(frame)).text.split("</iframe>")[0]
    seen = json.loads(title[title.index("{") : title.index("}") + 1])
    more, fewer = sorted(store.results, key=lambda r: -r.parameters)
    assert seen["orders"] == [
        ["ascending", "ours", "theirs"], ["descending", "theirs", "ours"],
        ["descending", more.variant, fewer.variant], ["ascending", fewer.variant, more.variant],
    ]  # fmt: skip
    assert seen["images"] is True
    assert seen["wide"] <= 390
