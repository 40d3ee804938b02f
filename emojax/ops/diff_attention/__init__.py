"""Differential attention: the difference of two attention maps."""

from emojax.ops.diff_attention.api import differential_attention

__all__ = ["differential_attention"]
