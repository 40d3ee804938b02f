"""Block sizes of the kernels, from a table that `experiments.bench.tune_diff_attention` writes."""

from __future__ import annotations

import dataclasses

from emojax.ops.diff_attention.problem import Operands, Options


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How a kernel divides a map.

    Attributes:
      query, key: columns of a block.
      whole_row: the longest row of which a program sees every key at once; longer ones are gone
        through block by block.
    """

    query: int
    key: int
    whole_row: int


def tuned(platform: str, x: Operands, options: Options) -> Blocks:
    return Blocks(128, 512, 2048) if platform == "tpu" else Blocks(64, 64, 128)
