"""Dynamic time warping, hard and soft; see `api`."""

from emojax.ops.warping.api import Alignment, alignment, dtw, path, soft_dtw

__all__ = ["Alignment", "alignment", "dtw", "path", "soft_dtw"]
