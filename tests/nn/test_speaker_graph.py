"""The graph of DialogueGCN against its equations, edge by edge, in fp64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from emojax.nn.speaker_graph import SpeakerGraph
from emojax.ops.masks import RELATIONS

B, L, D = 2, 40, 4


def code(i: int, j: int, speaker: np.ndarray) -> int:
    """Self, then past and future of the same speaker, then future and past of another."""
    if i == j:
        return 1
    if speaker[i] == speaker[j]:
        return 2 if j < i else 3
    return 4 if j > i else 5


def test_codes_are_all_there_are():
    assert RELATIONS == 6


@pytest.mark.parametrize(("window", "causal"), [(2, False), (3, True), (50, False)])
def test_is_the_sum_of_what_each_edge_brings(window, causal):
    draw = np.random.default_rng(0)
    x = draw.normal(size=(B, L, D)).astype(np.float32)
    speaker = draw.integers(2, size=(B, L)).astype(np.int32)
    segment = np.repeat([[1, 2, 0]], B, 0).repeat([25, 11, 4], axis=1).astype(np.int32)
    module = SpeakerGraph(window, causal, 0.0, np.float32)
    variables = module.init(jax.random.key(0), *map(jnp.asarray, (x, speaker, segment)))
    variables = jax.tree.map(lambda y: y + 0.3 * draw.normal(size=y.shape), variables)
    found = np.asarray(jax.jit(module.apply)(variables, x, speaker, segment))
    params = jax.tree.map(lambda y: np.asarray(y, np.float64), variables["params"])
    of_relation = params["relations"]["kernel"].reshape(5, D, D)

    def own(name, y):
        return y @ params[name]["kernel"] + params[name]["bias"]

    for b in range(B):
        y = x[b].astype(np.float64)
        edges = {
            i: [
                j for j in range(L)
                if segment[b, i] == segment[b, j] > 0 and abs(i - j) <= window
                and (not causal or j <= i)
            ]
            for i in range(L)
        }  # fmt: skip
        weight = np.zeros((L, L))
        for i, seen in edges.items():
            if seen:
                score = (y[seen] @ params["edge"]["kernel"]) @ y[i] / np.sqrt(D)
                weight[i, seen] = scipy.special.softmax(score)
        h = own("own_1", y)
        for i, seen in edges.items():
            for j in seen:
                h[i] += weight[i, j] * y[j] @ of_relation[code(i, j, speaker[b]) - 1]
        h = np.maximum(h, 0)
        wanted = np.maximum(own("own_2", h) + weight @ h @ params["neighbours"]["kernel"], 0)
        real = segment[b] > 0
        np.testing.assert_allclose(found[b, real], wanted[real], rtol=0, atol=2e-5)
