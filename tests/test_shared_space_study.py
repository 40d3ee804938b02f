"""The study of shared spaces: who starts from what, and the tables, without training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emojax.config import digest
from experiments import shared_space as study

OUT = Path("somewhere")
SEEDS = 3


def wanted():
    return study.plan({}, ["model.width=16"], ["early_fusion", "redifu"], SEEDS, OUT)


def test_fusion_starts_from_the_space_of_its_seed_and_of_what_it_may_know():
    plan = wanted()
    folders = {OUT / "runs" / digest(config): key for key, config in plan.spaces.items()}
    assert len(folders) == len(plan.spaces) == 3 * SEEDS
    for (model, begin, share, seed), config in plan.fusion.items():
        assert (config.model.name, config.model.width) == (model, 16)
        assert (config.data.train_share, config.train.seed) == (share, seed)
        if begin == "random":
            assert config.train.initialise_from == ""
            continue
        contrast, seen, of = folders[Path(config.train.initialise_from)]
        assert (contrast, of) == (begin, seed)
        # Labels of a supervised space are those that fusion has; the other needs none.
        assert seen == (share if begin == "supervised" else study.UNLABELLED)
    assert len({digest(config) for config in plan.fusion.values()}) == len(plan.fusion)


def test_differences_are_paired_by_seed():
    draw = np.random.default_rng(0)
    by_seed = draw.uniform(0.5, 0.8, SEEDS)
    gain = {"random": 0.0, "symmetric": 0.02, "supervised": -0.01}
    found = {
        key: {"splits": {"test": {"weighted_f1": {"value": by_seed[key[3]] + gain[key[1]]}}}}
        for key in wanted().fusion
    }
    for name, _, over, *_ in study.of_fusion(found).rows:
        begin = name.split(", ")[1].removesuffix(" start")
        assert over == {"random": "–", "symmetric": "+2.0 ± 0.0", "supervised": "-1.0 ± 0.0"}[begin]


def test_spaces_are_told_by_pairs():
    def report(seed):
        pairs = [
            {
                "query": query, "answer": answer, "recall": {"10": 0.1 * (i + 1) + 0.01 * seed},
                "chance": {"10": 0.005}, "same_label": {"10": 0.3}, "same_label_chance": 0.2,
            }
            for i, (query, answer) in enumerate(study.PAIRS)
        ]  # fmt: skip
        return {"retrieval": pairs, "splits": {"test": {"weighted_f1": {"value": 0.75}}}}

    sheet = study.of_spaces({key: report(key[2]) for key in wanted().spaces})
    assert [row[0] for row in sheet.rows] == [
        "symmetric, 33 % of the conversations", "supervised, 1 % of the conversations",
        "supervised, 3 % of the conversations",
    ]  # fmt: skip
    for row in sheet.rows:
        assert row[1:4] == ["75.0 ± 0.0", "11.0 ± 1.0 (chance 0.5)", "30.0 ± 0.0 (chance 20.0)"]
        assert len(row) == len(sheet.header)
