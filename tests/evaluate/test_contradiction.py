"""Contradiction is what its definition says, of every kind of model; the AUC is scikit-learn's."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from emojax.config import MODELS, DataConfig, RedifuAuthorsConfig, RedifuConfig
from emojax.data.packing import BatchPlan
from emojax.data.pipeline import Batches, collate
from emojax.evaluate.contradiction import contradiction, roc_auc
from emojax.evaluate.predict import make_predict, predict_split
from emojax.models.registry import build
from tests.batches import SIGNATURE, random_conversation, random_variables

PACKED = DataConfig(buckets=(16,), batch_utterances=32)
PADDED = DataConfig(layout="padded", buckets=(16,), batch_conversations=3)
CASES = {
    "redifu": (
        RedifuConfig(
            width=16, heads=2, graph_heads=2, encoder_layers=1, graph_layers=1, diffusion_steps=1
        ),
        PACKED,
    ),
    "dialogue_gcn": (MODELS["dialogue_gcn"](width=16, window=2), PACKED),
    "bc_lstm": (MODELS["bc_lstm"](width=16), PADDED),
    "redifu_authors": (RedifuAuthorsConfig(width=16, heads=4, window=3), PADDED),
}  # fmt: skip
CONVERSATIONS = [random_conversation(seed, n) for seed, n in enumerate([9, 4, 1, 7])]
LENGTHS = np.array([len(each) for each in CONVERSATIONS], np.int32)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two distributions over 1 to 6 classes, certain ones among them."""
    classes = draw(st.integers(1, 6))
    weights = st.lists(st.integers(0, 9), min_size=classes, max_size=classes).filter(any)
    one, other = (np.array(draw(weights), np.float64) for _ in range(2))
    return one / one.sum(), other / other.sum()


@given(pairs())
def test_it_is_by_how_much_the_words_fit_something_else_better(case):
    words, decided = case
    found = contradiction(words, decided)
    expected = sum(p * (max(words) - w) for p, w in zip(decided, words, strict=True))
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found <= 1
    assert (found < 1e-12) == (set(np.flatnonzero(decided)) <= set(np.flatnonzero(
        words == words.max()
    )))  # fmt: skip


def test_its_ends():
    sure, other, nothing = np.eye(3)[0], np.eye(3)[1], np.full(3, 1 / 3)
    rows = contradiction(np.array([sure, sure, nothing]), np.array([other, sure, other]))
    np.testing.assert_allclose(rows, [1, 0, 0], atol=1e-12)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2).filter(
        lambda rows: len({positive for _, positive in rows}) == 2
    )
)
def test_the_area_is_the_oracles_ties_included(rows):
    score, positive = (np.array(x) for x in zip(*rows, strict=True))
    score = score / 5
    assert roc_auc(score, positive) == pytest.approx(roc_auc_score(positive, score), abs=1e-12)


@pytest.mark.parametrize("positive", [np.ones(3, bool), np.zeros(3, bool), np.zeros(0, bool)])
def test_an_area_needs_both_kinds(positive):
    with pytest.raises(ValueError, match="make no pair"):
        roc_auc(np.zeros(len(positive)), positive)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A model at random parameters, its predictions, and what it is called with."""
    config, data = CASES[request.param]
    model = build(config, SIGNATURE)
    batches = Batches(CONVERSATIONS, LENGTHS, SIGNATURE.widths, data)
    variables = random_variables(model, next(iter(batches)).batch)
    return model, variables, predict_split(make_predict(model), variables, batches)


def test_words_are_shown_alone_and_out_of_context(case):
    """Against a batch of conversations of one utterance of which nothing but words is there."""
    model, variables, predictions = case
    alone = [
        dataclasses.replace(
            conversation,
            **{
                name: getattr(conversation, name)[t : t + 1]
                for name in ("text", "audio", "visual", "speaker", "label", "transcript")
            },
            present=conversation.present[t : t + 1] & [True, False, False],
        )
        for conversation in CONVERSATIONS
        for t in range(len(conversation))
    ]
    plan = BatchPlan(1, tuple((i,) for i in range(len(alone))), extent=1)
    logits = jax.jit(model.apply)(variables, collate(plan, alone, SIGNATURE.widths)).logits
    words = np.asarray(jax.nn.softmax(logits[:, 0]), np.float64)
    decided = np.concatenate([p.probability for p in predictions])
    heard = np.concatenate([p.present[:, 0] for p in predictions])
    found = np.concatenate([p.contradiction for p in predictions])
    np.testing.assert_allclose(found[heard], contradiction(words, decided)[heard], atol=2e-6)
    assert heard.any()
    assert found[heard].max() > 0.01
    np.testing.assert_array_equal(np.isnan(found), ~heard)


def test_other_utterances_have_a_say_in_the_decision_alone():
    """Of a model without context words and decision are of the very same utterance: where nothing
    but words is there, they are the same, and what is left is doubt."""
    model = build(MODELS["early_fusion"](width=16), SIGNATURE)
    mute = [
        dataclasses.replace(each, present=np.ones((len(each), 3), bool) & [True, False, False])
        for each in CONVERSATIONS
    ]
    batches = Batches(mute, LENGTHS, SIGNATURE.widths, PACKED)
    variables = random_variables(model, next(iter(batches)).batch)
    for found in predict_split(make_predict(model), variables, batches):
        doubt = found.probability.max(-1) - (found.probability**2).sum(-1)
        np.testing.assert_allclose(found.contradiction, doubt, atol=1e-6)


def test_who_reads_no_words_or_is_not_asked_finds_none():
    for config, explain in (
        (MODELS["early_fusion"](width=16, modalities=("audio", "visual")), True),
        (MODELS["early_fusion"](width=16), False),
    ):
        model = build(config, SIGNATURE)
        batches = Batches(CONVERSATIONS, LENGTHS, SIGNATURE.widths, PACKED)
        variables = random_variables(model, next(iter(batches)).batch)
        for found in predict_split(make_predict(model, explain=explain), variables, batches):
            assert found.contradiction is None
