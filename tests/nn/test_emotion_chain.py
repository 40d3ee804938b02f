"""The chain of emotions against a loop over utterances."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.nn.emotion_chain import EmotionChain

C = 3
SEGMENT = np.array([[1, 1, 1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
SPEAKER = np.array([[0, 1, 0, 2, 0, 1, 1, 0, 0], [2, 2, 0, 1, 1, 2, 0, 2, 1]], np.int32)


def apply(params, unary, speaker, segment, causal=False):
    variables = {"params": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)}
    return np.asarray(
        jax.jit(EmotionChain(causal).apply)(
            variables, jnp.asarray(unary, jnp.float32), jnp.asarray(speaker), jnp.asarray(segment)
        )
    )


def drawn(ways=2):
    draw = np.random.default_rng(0)
    unary = 2 * draw.normal(size=(*SEGMENT.shape, C))
    params = {
        "transition": draw.normal(size=(ways, 2, C, C)), "weight": draw.normal(size=(ways, 3)),
        "base": draw.normal(size=C),
    }  # fmt: skip
    return unary, params


def priors(unary, speaker, segment, transition, weight, base):
    """log prior of each utterance of a row, one after another in fp64."""
    transition, weight = (scipy.special.softmax(x, -1) for x in (transition, weight))
    base = scipy.special.softmax(base)
    found, beliefs = np.zeros_like(unary), np.zeros_like(unary)
    for i in range(len(unary)):
        before = [j for j in range(i) if segment[j] == segment[i]]
        same = [beliefs[j] for j in before if speaker[j] == speaker[i]]
        other = [beliefs[j] for j in before if speaker[j] != speaker[i]]
        own, others = (each[-1] if each else base for each in (same, other))
        prior = weight[0] * own @ transition[0] + weight[1] * others @ transition[1]
        found[i] = np.log(prior + weight[2] * base)
        beliefs[i] = scipy.special.softmax(found[i] + unary[i])
    return found


@pytest.mark.parametrize("causal", [False, True])
def test_against_a_loop_over_utterances(causal):
    unary, params = drawn(1 if causal else 2)
    expected = unary.copy()
    for b in range(len(unary)):
        row = unary[b], SPEAKER[b], SEGMENT[b]
        expected[b] += priors(*row, params["transition"][0], params["weight"][0], params["base"])
        if not causal:
            turned = [x[::-1] for x in row]
            expected[b] += priors(
                *turned, params["transition"][1], params["weight"][1], params["base"]
            )[::-1]
            expected[b] -= np.log(scipy.special.softmax(params["base"]))
    found = apply(params, unary, SPEAKER, SEGMENT, causal)
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_it_begins_by_taking_emotions_to_persist():
    module, known = EmotionChain(False), (jnp.asarray(SPEAKER), jnp.asarray(SEGMENT))
    unary = jnp.zeros((*SEGMENT.shape, C)).at[0, 0, 1].set(5.0)
    variables = jax.jit(module.init)(jax.random.key(0), unary, *known)
    found = np.asarray(module.apply(variables, unary, *known))[0]
    assert (found[:5].argmax(-1) == 1).all()  # of its conversation
    np.testing.assert_allclose(found[5:8], found[5, 0], rtol=1e-6)  # of the next: undecided
