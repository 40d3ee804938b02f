"""Scales and counts of the training split, against numpy on everything at once."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from emojax.data.statistics import Statistics, fit_statistics
from emojax.types import MODALITIES
from tests.batches import SIGNATURE, random_conversation

LENGTHS = (3, 12, 1, 7, 5, 12, 2)


def test_statistics_are_those_of_the_training_conversations_put_end_to_end():
    records = [random_conversation(seed, length) for seed, length in enumerate(LENGTHS)]
    ours = fit_statistics(records, SIGNATURE.widths, len(SIGNATURE.labels))
    present = np.concatenate([c.present for c in records])
    assert not present.all()
    for column, (modality, width) in enumerate(zip(MODALITIES, SIGNATURE.widths, strict=True)):
        x = np.concatenate([getattr(c, modality) for c in records]).astype(np.float64)
        x = x[present[:, column]]
        assert ours.mean[modality].shape == (width,)
        np.testing.assert_allclose(ours.mean[modality], x.mean(0), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(ours.deviation[modality], x.std(0), rtol=1e-6)
    label = np.concatenate([c.label for c in records])
    counts = [(label == k).sum() for k in range(len(SIGNATURE.labels))]
    np.testing.assert_array_equal(ours.label_counts, counts)


def test_features_far_from_zero_keep_their_small_deviation():
    draw = np.random.default_rng(0)
    records = [
        dataclasses.replace(
            random_conversation(seed, 50, missing=0),
            text=(1000 + draw.normal(size=(50, 7))).astype(np.float32),
        )
        for seed in range(20)
    ]
    x = np.concatenate([c.text for c in records]).astype(np.float64)
    ours = fit_statistics(records, SIGNATURE.widths, len(SIGNATURE.labels))
    np.testing.assert_allclose(ours.deviation["text"], x.std(0), rtol=1e-6)


def test_a_feature_that_does_not_vary_keeps_its_scale():
    records = [
        dataclasses.replace(
            random_conversation(seed, 200, missing=0),
            audio=np.full((200, 5), 0.1, np.float32),
            present=np.tile([True, True, False], (200, 1)),
        )
        for seed in range(100)
    ]
    ours = fit_statistics(records, SIGNATURE.widths, len(SIGNATURE.labels))
    np.testing.assert_array_equal(ours.deviation["audio"], 1)
    np.testing.assert_allclose(ours.mean["audio"], 0.1, rtol=1e-6)
    # A modality that training never shows is left as it is.
    np.testing.assert_array_equal(ours.deviation["visual"], 1)
    np.testing.assert_array_equal(ours.mean["visual"], 0)


def test_json_keeps_every_bit():
    records = [random_conversation(seed, length) for seed, length in enumerate(LENGTHS)]
    before = fit_statistics(records, SIGNATURE.widths, len(SIGNATURE.labels))
    after = Statistics.from_json(json.loads(json.dumps(before.to_json())))
    for name in ("mean", "deviation"):
        for modality in MODALITIES:
            one, two = getattr(before, name)[modality], getattr(after, name)[modality]
            assert one.dtype == two.dtype == np.float32
            np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(before.label_counts, after.label_counts)
