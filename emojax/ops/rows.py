"""Running the rows of a batch one after another where that is faster than all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array


def by_row(
    function: Callable[..., Any],
    *arrays: Array | None,
    key: Array | None = None,
    recompute: bool = True,
) -> Any:
    """`function(*arrays, key)`, computed row by row on CPU and side by side elsewhere.

    On CPU the attention maps of one row stay in the cache, while those of a whole batch are the
    largest arrays of a model and are written to memory and read back by every operation.

    Args:
      function: of one row, arrays without that axis, and a key or None, to an array or several.
      arrays: leading axis B each; None is passed on.
      key: split into one for each row.
      recompute: compute each row again in the backward pass instead of storing what it needs.
    """
    given = [x for x in arrays if x is not None]
    keys = None if key is None else jax.random.split(key, len(given[0]))

    def one(row: tuple[list[Array], Array | None]) -> Any:
        rest = iter(row[0])
        return function(*(x if x is None else next(rest) for x in arrays), row[1])

    each = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
    return each(jax.checkpoint(one) if recompute else one, (given, keys))


def of_batch(function: Callable[..., Array]) -> Callable[..., Array]:
    """A function of batches and a key as one of single rows, for `by_row`."""

    def row(*arrays: Array | None) -> Array:
        *given, key = arrays
        return function(*(x if x is None else x[None] for x in given), key)[0]

    return row
