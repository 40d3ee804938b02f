from __future__ import annotations

import numpy as np

from emojax.types import MODALITIES
from experiments.bench import workload


def test_lengths_have_the_corpus_totals():
    lengths = workload.lengths()
    assert len(lengths) == 120
    assert lengths.sum() == 5679
    assert round(lengths.mean()) == 47
    assert lengths.max() == 110
    assert lengths.min() >= 1
    padded = sum(16 * lengths[i : i + 16].max() for i in range(0, 112, 16))
    assert padded + 8 * lengths[112:].max() == 10592
    np.testing.assert_array_equal(lengths, workload.lengths())


def test_padded_batches_hold_every_utterance_once():
    members, batches = workload.conversations(), workload.epoch(workload.padded())
    published = [workload.published(batch) for batch in batches]
    assert [len(batch.label) for batch in published] == [16] * 7 + [8]
    assert sum(batch.label.size for batch in published) == 10592
    assert sum((batch.segment > 0).sum() for batch in published) == 5679
    assert sum(batch.label.size for batch in batches) < 1.15 * 10592
    assert len({(batch.label.shape, batch.capacity) for batch in batches}) == 3
    assert sum((batch.segment > 0).sum() for batch in batches) == 5679
    for batch in batches:
        real = batch.segment > 0
        assert real.sum() <= batch.capacity < batch.label.size
        assert (batch.label[~real] == -1).all()
        assert (batch.label[real] >= 0).all()
        assert not batch.present[~real].any()
        np.testing.assert_array_equal(real.sum(1).max(), batch.extent)
        np.testing.assert_array_equal(batch.position[real], np.nonzero(real)[1])
    for field in (*MODALITIES, "speaker", "label"):
        together = np.concatenate([getattr(batch, field)[batch.segment > 0] for batch in batches])
        apart = np.concatenate([getattr(member, field) for member in members])
        np.testing.assert_array_equal(together, apart)


def test_packed_batches_hold_every_utterance_once():
    batches = workload.epoch(workload.packed())
    assert len(batches) == len(workload.epoch(workload.padded()))
    assert sum((batch.label >= 0).sum() for batch in batches) == 5679
    assert sum(batch.label.size for batch in batches) < 0.65 * 10592
    assert len({batch.label.shape for batch in batches}) == 1
