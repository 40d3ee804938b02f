"""Running the rows of a batch one after another where that is faster than all at once."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array


def by_row(
    function: Callable[..., Array],
    *arrays: Array | None,
    key: Array | None = None,
    recompute: bool = True,
) -> Array:
    """`function(*arrays, key)`, computed row by row on CPU and side by side elsewhere.

    On CPU the attention maps of one row stay in the cache, while those of a whole batch are the
    largest arrays of a model and are written to memory and read back by every operation.

    Args:
      function: of arrays with a leading axis of size 1 and a key or None; must treat rows alike.
      arrays: leading axis B each; None is passed on.
      key: split into one for each row.
      recompute: compute each row again in the backward pass instead of storing what it needs.
    """
    given = [x for x in arrays if x is not None]
    keys = None if key is None else jax.random.split(key, len(given[0]))

    def one(row: tuple[list[Array], Array | None]) -> Array:
        rest = iter(row[0])
        return function(*(x if x is None else next(rest)[None] for x in arrays), row[1])[0]

    each = jax.lax.map if jax.default_backend() == "cpu" else lambda f, xs: jax.vmap(f)(xs)
    return each(jax.checkpoint(one) if recompute else one, (given, keys))
