"""Forward-backward over the joint hidden state of a simulated conversation.

The state of an utterance is the emotion of every speaker and whether audio and visual are in a
burst: Z = C^S emotions times X = 4 bursts (audio major). As the utterance's speaker sees it, it is
laid out as [N, C, R, X], own emotion first; N conversations run side by side and R = C^(S-1) counts
the emotions of the silent speakers. Everything is a logarithm, so nothing underflows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike

from emojax.data.process import SimulatorConfig

log_sum = np.logaddexp.reduce


def log(probability: ArrayLike) -> np.ndarray:
    """Natural logarithm, -inf for what cannot happen."""
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(probability, np.float64))


class JointChain:
    """Forward-backward over the joint chain of all speakers' emotions and both bursts.

    A move touches the speaker's own emotion alone: it is kept with probability `inertia`, or
    drawn from `arrival[R, C]`, which the silent speakers' emotions and the base rate make up. That
    sum of two terms is why no Z x Z matrix is needed.
    """

    def __init__(self, config: SimulatorConfig):
        classes, speakers = len(config.labels), config.speakers
        self._shape = (classes, classes ** (speakers - 1), 4)
        states = np.arange(classes**speakers).reshape((classes,) * speakers)
        self._facing = np.stack([np.moveaxis(states, s, 0).ravel() for s in range(speakers)])
        self._joint = np.argsort(self._facing, axis=1)

        base = np.asarray(config.base_rate)
        contagion = config.contagion if speakers > 1 else 0.0
        silent = np.indices((classes,) * (speakers - 1)).reshape(speakers - 1, self._shape[1])
        shared = np.eye(classes)[silent].sum(0) / max(speakers - 1, 1)
        fresh = max(1 - config.inertia - contagion, 0.0)
        self._log_arrival = log(contagion * shared + fresh * base).T[..., None]
        self._log_inertia = log(config.inertia)

        switches, shares = [], []
        for start, stop, share in zip(
            config.burst_start, config.burst_stop, config.burst_share, strict=True
        ):
            switches.append([[1 - start, start], [stop, 1 - stop]])
            shares.append([1 - share, share])
        self._log_burst = log(np.kron(*switches))
        prior = np.ones(1)
        for _ in range(speakers):
            prior = np.kron(prior, base)
        self._log_prior = log(prior)[:, None] + log(np.kron(*shares))

    def filter(self, log_likelihood: np.ndarray, speaker: np.ndarray) -> np.ndarray:
        """log P(own emotion | past and present) f64[N, L, C], likelihood f64[N, L, C, X]."""
        past = self._forward(log_likelihood, speaker)
        return np.stack([_normalised(log_sum(state, axis=(2, 3)), -1) for state in past], axis=1)

    def smooth(self, log_likelihood: np.ndarray, speaker: np.ndarray) -> np.ndarray:
        """log P(own emotion | everything) f64[N, L, C], likelihood f64[N, L, C, X]."""
        return log_sum(self.smooth_bursts(log_likelihood, speaker), axis=-1)

    def smooth_bursts(self, log_likelihood: np.ndarray, speaker: np.ndarray) -> np.ndarray:
        """log P(own emotion, bursts | everything) f64[N, L, C, X], likelihood f64[N, L, C, X]."""
        past = list(self._forward(log_likelihood, speaker))
        log_state = np.empty(log_likelihood.shape)
        future = np.zeros((len(speaker), *self._shape))
        for t in reversed(range(len(past))):
            log_state[:, t] = _normalised(log_sum(past[t] + future, axis=2), (1, 2))
            if t > 0:
                after = _normalised(future + log_likelihood[:, t, :, None], (1, 2, 3))
                after = log_sum(after[..., None, :] + self._log_burst, axis=-1)
                left = log_sum(self._log_arrival + after, axis=1)[:, None]
                before = np.logaddexp(self._log_inertia + after, left)
                joint = self._turn(before, self._joint[speaker[:, t]])
                future = self._turn(joint, self._facing[speaker[:, t - 1]])
        return log_state

    def _forward(self, log_likelihood: np.ndarray, speaker: np.ndarray) -> Iterator[np.ndarray]:
        """log P(state | past and present) [N, C, R, X] of one utterance after the other."""
        joint = np.broadcast_to(self._log_prior, (len(speaker), *self._log_prior.shape))
        for t in range(speaker.shape[1]):
            state = self._turn(joint, self._facing[speaker[:, t]])
            if t > 0:
                state = log_sum(state[..., :, None] + self._log_burst, axis=-2)
                arrive = self._log_arrival + log_sum(state, axis=1)[:, None]
                state = np.logaddexp(self._log_inertia + state, arrive)
            state = _normalised(state + log_likelihood[:, t, :, None], (1, 2, 3))
            yield state
            joint = self._turn(state, self._joint[speaker[:, t]])

    def _turn(self, state: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Reorders the joint emotions of each conversation by order int[N, Z]."""
        flat = state.reshape(len(order), -1, 4)
        return np.take_along_axis(flat, order[..., None], axis=1).reshape(-1, *self._shape)


def _normalised(log_p: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """Shifted so that probabilities sum to 1; the largest becomes 0 first, which loses no digit."""
    log_p = log_p - log_p.max(axis=axis, keepdims=True)
    return log_p - log_sum(log_p, axis=axis, keepdims=True)
