"""Running the rows of a batch one after another where that is faster than all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array

from emojax.ops.target import target


def by_row(
    function: Callable[..., Any], *arrays: Any, key: Array | None = None, recompute: bool = True
) -> Any:
    """`function(*arrays, key)`, computed row by row on CPU and side by side elsewhere.

    On CPU the attention maps of one row stay in the cache, while those of a whole batch are the
    largest arrays of a model and are written to memory and read back by every operation.

    Args:
      function: of one row, arrays without that axis, and a key or None, to an array or several.
      arrays: trees of arrays with leading axis B; None has no rows and is passed on.
      key: split into one for each row; or key[B], one for each row.
      recompute: compute each row again in the backward pass instead of storing what it needs.
    """
    if key is not None and key.ndim == 0:
        key = jax.random.split(key, len(jax.tree.leaves(arrays)[0]))

    def one(row: Any) -> Any:
        return function(*row)

    each = jax.lax.map if target()[0] == "cpu" else lambda f, xs: jax.vmap(f)(xs)
    return each(jax.checkpoint(one) if recompute else one, (*arrays, key))
