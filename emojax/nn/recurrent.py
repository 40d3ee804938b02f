"""Recurrent networks over conversations that share rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from emojax.nn.layers import dense
from emojax.nn.sharding import over_shards


class Recurrent(nn.Module):
    """An LSTM (Hochreiter and Schmidhuber, 1997) or GRU (arXiv:1406.1078) over each conversation.

    From both ends, half of the features each, or from the start alone if `causal`. States are fp32
    and begin anew with each conversation.
    """

    cell: Literal["lstm", "gru"]
    features: int
    causal: bool
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment: Int[Array, "B L"]
    ) -> Float[Array, "B L F"]:
        if self.causal:
            return self.walk(x, segment, self.features, "forward")
        half = self.features // 2
        ways = (self.walk(x, segment, half, "forward"),
                self.walk(x, segment, self.features - half, "backward"))  # fmt: skip
        return jnp.concatenate(ways, -1)

    def walk(self, x: Array, segment: Array, features: int, way: str) -> Array:
        gates = {"lstm": 4, "gru": 3}[self.cell]
        # All columns at once: only what depends on the state is left to the walk.
        inputs = dense(gates * features, self.dtype, f"{way}_gates")(x).astype(jnp.float32)
        kernel = self.param(
            f"{way}_state", nn.initializers.orthogonal(), (features, gates * features), jnp.float32
        )
        edge = segment[:, 1:] != segment[:, :-1]
        ends = ((0, 0), (1, 0)) if way == "forward" else ((0, 0), (0, 1))
        fresh = jnp.pad(edge, ends, constant_values=True)
        # On each device's rows: the kernel's gradient is then added up once, and not at every step.
        rows = ("batch", None, None)
        over = over_shards(self.scan(way), (rows, rows[:2], (None, None)), rows)
        return over(inputs, fresh, kernel).astype(self.dtype)

    def scan(self, way: str) -> Callable[[Array, Array, Array], Array]:
        step = {"lstm": _lstm, "gru": _gru}[self.cell]

        def product(h: Array, kernel: Array) -> Array:
            h, kernel = h.astype(self.dtype), kernel.astype(self.dtype)
            return jnp.matmul(h, kernel, preferred_element_type=jnp.float32)

        def states(inputs: Array, fresh: Array, kernel: Array) -> Array:
            def move(state: tuple[Array, ...], given: tuple[Array, Array]) -> Any:
                own, new = given
                state = tuple(jnp.where(new[:, None], 0, y) for y in state)
                state = step(own, state, kernel, product)
                return state, state[0]

            zeros = jnp.zeros((inputs.shape[0], kernel.shape[0]), jnp.float32)
            start = (zeros, zeros) if self.cell == "lstm" else (zeros,)
            along = jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), (inputs, fresh))
            _, found = jax.lax.scan(move, start, along, reverse=way == "backward")
            return jnp.swapaxes(found, 0, 1)

        return states


def _lstm(own: Array, state: tuple[Array, ...], kernel: Array, product: Any) -> tuple[Array, ...]:
    h, c = state
    enter, keep, new, show = jnp.split(own + product(h, kernel), 4, -1)
    # A cell that keeps what it has until it learns to forget.
    c = nn.sigmoid(keep + 1) * c + nn.sigmoid(enter) * jnp.tanh(new)
    return nn.sigmoid(show) * jnp.tanh(c), c


def _gru(own: Array, state: tuple[Array, ...], kernel: Array, product: Any) -> tuple[Array, ...]:
    (h,) = state
    reset, keep, new = jnp.split(own, 3, -1)
    of_reset, of_keep, of_new = jnp.split(kernel, 3, -1)
    reset = nn.sigmoid(reset + product(h, of_reset))
    keep = nn.sigmoid(keep + product(h, of_keep))
    new = jnp.tanh(new + reset * product(h, of_new))
    return (keep * h + (1 - keep) * new,)
