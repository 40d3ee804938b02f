"""The rival computes the published model: against the goldens, at the golden's tolerances."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch, the benchmark's rival, is not installed")

from experiments.bench import torch_redifu_authors as rival  # noqa: E402

GOLDENS = Path(__file__).parents[1] / "goldens"
SIZES = {"iemocap": 45_632_150, "meld": 11_480_467}


@pytest.mark.parametrize("branch", SIZES)
def test_matches_golden(branch):
    arrays = np.load(GOLDENS / f"redifu_{branch}_branch.npz")
    config = json.loads(str(arrays["config"]))
    model = rival.TorchRedifuAuthors(
        rival.Settings(
            branch=branch,
            widths=(config["d_text"], config["d_audio"], config["d_visual"]),
            classes=config["n_classes"],
            speakers=config["n_speakers"],
            width=config["hidden_dim"],
            heads=config["n_head"],
            window=config["window"],
        )
    ).eval()

    def group(prefix):
        names = [name for name in arrays.files if name.startswith(prefix)]
        return {name[len(prefix) :]: torch.from_numpy(arrays[name]) for name in names}

    model.load_state_dict(group("param/"))
    given, expected = group("input/"), group("output/")
    mask = given["mask"] > 0
    features = (given[modality] for modality in ("text", "audio", "visual"))
    logits, each = model(*features, given["speaker"], mask)
    label = given["label"].masked_fill(~mask, -1)
    loss = rival.loss(logits, each, label, given.get("class_weight"))
    loss.backward()

    def error(ours, theirs):
        return (ours - theirs).detach().abs()[mask].max().item()

    assert error(logits, expected["logits"]) <= 1e-5
    for m, modality in enumerate(("text", "audio", "visual")):
        ours = each[:, :, m].log_softmax(-1)
        assert error(ours, expected[f"log_prob_{modality}"]) <= 1e-5
    assert abs(loss.item() - expected["loss"].item()) <= 5e-6
    # The shared relation table appears under more than one name.
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, theirs in group("grad/").items():
        ours = parameters[name].grad
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max(), name


@pytest.mark.parametrize("branch", SIZES)
def test_relations_match_golden(branch):
    arrays = np.load(GOLDENS / f"redifu_{branch}_branch.npz")
    window = json.loads(str(arrays["config"]))["window"]
    speaker, mask = (torch.from_numpy(arrays[f"input/{name}"]) for name in ("speaker", "mask"))
    same, cross = rival.relation_graphs(speaker, mask > 0, window)
    np.testing.assert_array_equal(same, arrays["input/self_relation"])
    np.testing.assert_array_equal(cross, arrays["input/cross_relation"])


def test_has_the_published_size():
    with torch.device("meta"):
        full = rival.TorchRedifuAuthors(rival.Settings())
        meld = rival.Settings("meld", (1024, 300, 342), classes=7, speakers=9, width=256, heads=16)
        small = rival.TorchRedifuAuthors(meld)
    assert rival.parameter_count(full) == SIZES["iemocap"]
    assert rival.parameter_count(small) == SIZES["meld"]
