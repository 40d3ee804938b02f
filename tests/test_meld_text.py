"""The study of MELD's text: what is chosen, what stands in the tables, what stored features are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from emojax.config import load, to_dict
from experiments import meld_context, meld_plan, meld_tables
from experiments.meld_plan import RANDOM, SHARES, VARIANTS, Plan, Results, name_of


@pytest.fixture
def plan() -> Plan:
    return Plan(load(meld_plan.BASE), ["data.source=somewhere"])


def line(config, validation: float, test: float) -> dict:
    return {
        "name": name_of(config), "config": to_dict(config), "device": "cpu", "seconds": 2.0,
        "best": {"validation": {"weighted_f1": validation}}, "test": {"weighted_f1": test},
    }  # fmt: skip


def test_every_variant_is_a_config_and_names_do_not_tell_places(plan):
    there = Plan(load(meld_plan.BASE), ["data.source=elsewhere", "text.encoder=copy"])
    names = [name_of(plan.config(variant, 0)) for variant in VARIANTS | RANDOM]
    assert len(set(names)) == len(names)
    assert names == [name_of(there.config(variant, 0)) for variant in VARIANTS | RANDOM]
    assert plan.config("base", 0, 1.0).train.epochs == 4
    epochs = [plan.config("base", 0, share).train.epochs for share in SHARES]
    assert epochs == sorted(epochs)
    assert epochs[-1] == meld_plan.MOST_EPOCHS


def test_validation_alone_chooses(plan):
    """With the best test score at the worst validation score."""
    found = {}
    for rank, variant in enumerate([*VARIANTS, *RANDOM]):
        one = line(plan.config(variant, 0), 0.3 + 0.01 * rank, 0.9 - 0.01 * rank)
        found[one["name"]] = one
    assert plan.chosen(found) == list(VARIANTS)[-1]
    assert plan.chosen_random(found) == list(RANDOM)[-1]
    second = [name_of(config) for config in plan.second(found)]
    ahead = list(VARIANTS)[: -meld_plan.FINALISTS - 1 : -1]
    assert second == [name_of(plan.config(variant, 1)) for variant in ahead]
    # A second seed may turn it round; one that failed counts for nothing.
    for variant, value in zip(ahead, (0.1, 0.9), strict=False):
        one = line(plan.config(variant, 1), value, 0.0)
        found[one["name"]] = one
    assert plan.chosen(found) == ahead[1]
    broken = name_of(plan.config(ahead[1], 1))
    found[broken] = {"name": broken, "error": "it broke"}
    assert plan.chosen(found) == ahead[0]


def test_half_a_line_is_none(tmp_path: Path, plan):
    results = Results(tmp_path / "out" / "results.jsonl")
    assert results.read() == {}
    one = line(plan.config("base", 0), 0.5, 0.6)
    results.add(one)
    with results.path.open("a") as file:
        file.write(json.dumps(one)[:50])
    assert results.read() == {one["name"]: one}


def test_the_share_that_is_needed():
    curve = {0.01: 0.2, 0.1: 0.4, 1.0: 0.6}
    assert meld_tables._needed(curve, 0.4) == pytest.approx(0.1)
    assert meld_tables._needed(curve, 0.5) == pytest.approx(10**-0.5)
    assert meld_tables._needed(curve, 0.1) == 0.01
    assert meld_tables._needed(curve, 0.7) == 1.0


def test_tables_from_lines_alone(plan, tmp_path: Path, capsys):
    results = Results(tmp_path / "results.jsonl")
    for variant, worse in (("base", 0.0), (next(iter(RANDOM)), 0.2)):
        for seed in range(meld_plan.SEEDS):
            for share in SHARES:
                value = 0.6 + 0.1 * np.log10(share) - worse + 0.001 * seed
                results.add(line(plan.config(variant, seed, share), value, value))
    meld_tables.draw(plan, tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert text in capsys.readouterr().out
    assert "| base | 5 | 60.2 ± 0.2 | 60.2 ± 0.2 |" in text
    assert "| pretrained | 40.1 ± 0.1 | 44.9 ± 0.1 | 50.1 ± 0.1 | 54.9 ± 0.1 | 60.1 ± 0.1 |" in text
    # A curve that lies .2 higher at .1 a decade: a hundredth of the conversations, seed by seed.
    assert "| 100 | 40.1 ± 0.1 | at least 99.0 ± 0.0 | 3 |" in text
    assert "| 3 | 24.9 ± 0.1 | at least 66.7 ± 0.0 | 3 |" in text
    assert "| 1 | " not in text.split("Labelled conversations saved")[1]
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_stored_features_stand_for_their_encoder(tmp_path: Path, shared: Path):
    """Those of the hash that MELD's reader makes, through a file: the same corpus comes of it."""
    from emojax.data.encoded import encode_text
    from emojax.data.readers import read_corpus

    corpus = read_corpus(shared / "data" / "meld")
    arrays = {
        split: np.concatenate([each.text for each in found]).astype(np.float16)
        for split, found in corpus.splits.items()
    }
    np.savez(tmp_path / "features-0.npz", **arrays)
    stored = meld_context.StoredFeatures(tmp_path / "features-0.npz")
    again = encode_text(corpus, stored)  # type: ignore[arg-type]
    assert again.signature.widths == corpus.signature.widths
    for split, found in corpus.splits.items():
        for before, after in zip(found, again.splits[split], strict=True):
            np.testing.assert_allclose(after.text, before.text, atol=1e-3)
    short = meld_context.StoredFeatures(tmp_path / "features-0.npz")
    small = {split: found[:2] for split, found in corpus.splits.items()}
    import dataclasses

    with pytest.raises(ValueError, match="is of another corpus"):
        encode_text(dataclasses.replace(corpus, splits=small), short)  # type: ignore[arg-type]
