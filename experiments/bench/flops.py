"""How much arithmetic an epoch needs, so that a time becomes a share of what the machine can do.

Only matrix products count, 2 FLOPs a multiply-add; recomputation in the backward pass does not
count as needed. A product of the forward pass costs as much again for each of its two gradients,
but inputs that nothing learns have no gradient.

`authors` is the formula for the published model (IEMOCAP branch). Its multiply-adds, beside the
input projections' D_m D:

- 45 D^2 a place up to and including fusion's attention. A relation GAT has 5 (D x 2D, 2D x D,
  D x D), of which there are two; an encoder 10 (delta gate 1, context gate 2, QKV 3, output 1,
  feed-forward 2, output gate 1), also two; a fusion 5 (its own queries, keys and values of the two
  others), one for each of three modalities.
- 3 (43 D^2 + D C) a place after it: projection 1, gate 2, MLP 4 + 16 + 16 + 4, and the head. These
  layers treat an utterance alone, so an implementation may leave padding out.
- 22 D a pair of places of a row: 3 for each GAT (its three maps times values), 2 for each encoder
  (the second map reuses the scores of the first), 4 for each fusion.

`trained` takes the forward products of any model from its trace instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emojax.evaluate.flops import traced
from emojax.types import Signature


def authors(signature: Signature, width: int, places: int, late_places: int, pairs: int) -> int:
    """FLOPs of forward and backward pass of the published model, IEMOCAP branch.

    Args:
      places: utterances, padding included.
      late_places: how many of them go through the layers after fusion's attention.
      pairs: sum over rows of the square of their length.
    """
    heads = 3 * width * len(signature.labels)
    learned = places * 45 * width**2 + late_places * (3 * 43 * width**2 + heads)
    learned += pairs * 22 * width
    inputs = places * sum(signature.widths) * width
    return 2 * (3 * learned + 2 * inputs)


def trained(forward: Callable[..., Any], signature: Signature, width: int, *arguments: Any) -> int:
    """FLOPs of forward and backward pass, given one call of the forward pass.

    Args:
      forward: function whose last argument is the batch.
      width: D, into which the features are projected.
    """
    places = arguments[-1].label.size
    inputs = 2 * places * sum(signature.widths) * width
    return 3 * traced(forward, *arguments) - inputs
