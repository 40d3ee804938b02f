"""Shapes of differential attention that tests and benchmarks share, and what they cost."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Shape:
    """B rows of L columns, H heads over K key heads, keys d and values e wide."""

    rows: int
    length: int
    heads: int
    shared: int
    width: int
    values: int

    def __str__(self) -> str:
        heads = f"{self.heads}" if self.heads == self.shared else f"{self.heads}/{self.shared}"
        return f"{self.rows}x{self.length}, {heads} heads, {self.width}+{self.values} wide"

    def flops(self, *, backward: bool) -> int:
        """Of the products that one pass over whole rows needs, forward or forward and backward.

        Two maps, one product with the values; backward each map again, one derivative by the
        combined map, one by the values, and two by queries and keys for each map.
        """
        products = 2 * self.width + self.values
        if backward:
            products += 2 * self.width + 2 * self.values + 4 * self.width
        return 2 * self.rows * self.heads * self.length**2 * products

    def bytes(self, size: int, *, backward: bool) -> int:
        """What must be read and written at least once, with elements of `size` bytes."""
        query = self.rows * self.length * self.heads
        key = self.rows * self.length * self.shared
        inputs = 2 * (query + key) * self.width + key * self.values
        found = query * self.values
        return size * ((3 * inputs + 2 * found) if backward else (inputs + found))


SPECIFIED = (
    Shape(32, 128, 8, 8, 64, 128),
    Shape(32, 512, 8, 8, 64, 128),
    Shape(4, 4096, 8, 8, 64, 128),
)
"""The benchmark's shapes: conversations, long conversations, frames."""

SMALL = {
    "odd": Shape(2, 37, 2, 2, 5, 5),
    "one utterance": Shape(3, 1, 2, 2, 4, 6),
    "shared keys": Shape(2, 20, 4, 2, 8, 8),
    "one key head": Shape(1, 33, 3, 1, 6, 6),
    "wide values": Shape(2, 24, 2, 2, 4, 12),
    "several blocks": Shape(1, 300, 2, 1, 16, 32),
}
"""The tests' shapes."""
