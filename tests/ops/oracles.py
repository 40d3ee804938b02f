"""fp64 definitions, element by element, and how to hold a jax function against one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax import Array


def assert_matches(
    function: Callable[..., Array],
    oracle: Callable[..., np.ndarray],
    arguments: Mapping[str, np.ndarray],
    *,
    atol: float = 2e-5,
) -> None:
    """Value and first derivatives of `function` equal those of an fp64 `oracle`.

    The derivative by each argument is compared along a random direction: central differences of
    the oracle on one side, reverse mode on the other.
    """
    draw = np.random.default_rng(0)
    single = {name: x.astype(np.float32) for name, x in arguments.items()}
    double = {name: x.astype(np.float64) for name, x in single.items()}
    expected = oracle(**double)
    weight = draw.normal(size=expected.shape)

    def scalar(arguments):
        value = function(**arguments)
        return (value * weight.astype(np.float32)).sum(), value

    (_, value), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(single)
    np.testing.assert_allclose(value, expected, rtol=0, atol=atol)
    for name, x in double.items():
        direction, step = draw.normal(size=x.shape), 1e-6
        ahead, behind = (oracle(**{**double, name: x + s * step * direction}) for s in (1, -1))
        numeric = (weight * (ahead - behind)).sum() / (2 * step)
        ours = np.asarray(gradients[name], np.float64)
        scale = 1 + np.linalg.norm(ours) * np.linalg.norm(direction)
        assert abs((ours * direction).sum() - numeric) <= 1e-5 * scale, name


def sees(segment: np.ndarray, i: int, causal: bool = False, window: int | None = None) -> list[int]:
    """Columns that column i of one row may attend to."""
    return [
        j
        for j in range(len(segment))
        if segment[i] > 0
        and segment[j] == segment[i]
        and (not causal or j <= i)
        and (window is None or abs(i - j) <= window)
    ]


def differential_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    lam: np.ndarray | None = None,
    q2: np.ndarray | None = None,
    k2: np.ndarray | None = None,
    *,
    segment: np.ndarray,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    keep: np.ndarray | None = None,
) -> np.ndarray:
    """Each output on its own, as the operator's equation reads; `keep` multiplies the map."""
    B, L, H, d = q.shape
    scale = 1 / np.sqrt(d) if scale is None else scale
    keep = np.ones((B, H, L, L)) if keep is None else keep
    lam = None if lam is None else np.broadcast_to(lam, (B, L, H))
    out = np.zeros((B, L, H, v.shape[-1]))
    for b, h, i in itertools.product(range(B), range(H), range(L)):
        weights = np.zeros(L)
        seen = sees(segment[b], i, causal, window)
        if seen:
            weights[seen] = scipy.special.softmax([scale * q[b, i, h] @ k[b, j, h] for j in seen])
        if lam is not None:
            query, key, step = (q, k, 1) if q2 is None or k2 is None else (q2, k2, 0)
            seen = [j for j in seen if j - step >= 0 and segment[b, j - step] == segment[b, i]]
            if seen:
                second = scipy.special.softmax(
                    [scale * query[b, i, h] @ key[b, j - step, h] for j in seen]
                )
                weights[seen] -= lam[b, i, h] * second
        out[b, i, h] = (weights * keep[b, h, i]) @ v[b, :, h]
    return out


def dense_attention(
    q, k, v, lam=None, q2=None, k2=None, *, segment, causal=False, window=None, scale=None,
    shown=None,
):  # fmt: skip
    """The same for whole arrays, numpy or jax, with heads that share keys; masks pair by pair."""
    (B, L, H, d), group = q.shape, q.shape[2] // k.shape[2]
    mask = np.zeros((B, 1, L, L), bool)
    for b, i in itertools.product(range(B), range(L)):
        seen = sees(segment[b], i, causal, window)
        mask[b, 0, i, [j for j in seen if shown is None or shown[b, j] or j == i]] = True
    xp = np if isinstance(q, np.ndarray) else jnp

    def softmax(q, k, mask):
        scores = xp.einsum("bihd,bjhd->bhij", q, xp.repeat(k, group, axis=2))
        scores = xp.where(mask, scores * (d**-0.5 if scale is None else scale), -1e9)
        weights = xp.where(mask, xp.exp(scores - scores.max(-1, keepdims=True)), 0)
        total = weights.sum(-1, keepdims=True)
        return weights / xp.where(total > 0, total, 1)

    weights = softmax(q, k, mask)
    if lam is not None:
        if q2 is None:
            inside = np.pad(segment[:, 1:] == segment[:, :-1], ((0, 0), (1, 0)))
            q2, k2 = q, xp.concatenate([0 * k[:, :1], k[:, :-1]], axis=1)
            second = softmax(q2, k2, mask & inside[:, None, None])
        else:
            second = softmax(q2, k2, mask)
        lam = xp.broadcast_to(lam, (B, L, H))
        weights = weights - xp.moveaxis(lam, 1, 2)[..., None] * second
    return xp.einsum("bhij,bjhe->bihe", weights, xp.repeat(v, group, axis=2))
