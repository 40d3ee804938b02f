"""What public implementations say of warped sequences: the oracle of `emojax.ops.warping`.

    pip install tslearn dtaidistance
    python -m tests.goldens.make_warping

Writes warping.npz: sequences, with tslearn 0.10 their soft-DTW, its alignment and the best path,
with dtaidistance 2.5 their DTW in bands. tslearn brings a compiler, so tests read the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "warping.npz"
LENGTHS = ((12, 12), (9, 12), (12, 5), (1, 7))
BANDS = (1, 3)


def main() -> None:
    from dtaidistance import dtw_ndim
    from tslearn.metrics import dtw_path, soft_dtw_alignment

    draw = np.random.default_rng(0)
    content: dict[str, np.ndarray] = {}
    for k, (n, m) in enumerate(LENGTHS):
        x, y = draw.normal(size=(n, 3)), draw.normal(size=(m, 3))
        content |= {f"x_{k}": x, f"y_{k}": y}
        content[f"path_{k}"], distance = map(np.array, dtw_path(x, y))
        content[f"dtw_{k}"] = distance**2
        for gamma in (0.1, 2.0):
            alignment, value = soft_dtw_alignment(x, y, gamma=gamma)
            content |= {f"soft_{k}_{gamma}": np.array(value), f"align_{k}_{gamma}": alignment}
        if n == m:  # for other lengths its band is another
            for band in BANDS:
                distance = dtw_ndim.distance(x, y, window=band + 1)
                content[f"band_{k}_{band}"] = np.array(distance**2)
    np.savez_compressed(FILE, **content)


if __name__ == "__main__":
    main()
