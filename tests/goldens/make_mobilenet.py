"""Makes `mobilenet/`: a small MobileNetV2 of random weights and what transformers says of it.

    pip install torch transformers
    python -m tests.goldens.make_mobilenet

`expected.npz` holds the last feature map and the pooled features of `frames(SIZE)`, for sizes that
strides divide evenly and for one that they do not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "mobilenet"
SIZES = (64, 75)


def frames(size: int) -> np.ndarray:
    """f32[3, size, size, 3] in [-1, 1], smooth as pictures are."""
    place = np.linspace(0, 3, size)
    along, across = place[:, None, None], place[None, :, None] * (1 + np.arange(3))
    waves = [np.sin(k * along + c) * np.cos(across) for k, c in ((1, 0), (2.5, 1), (4, 2))]
    return np.stack(waves).astype(np.float32)


def main() -> None:
    import torch
    from transformers import MobileNetV2Config, MobileNetV2Model

    torch.manual_seed(0)
    model = MobileNetV2Model(
        MobileNetV2Config(depth_multiplier=0.1, finegrained_output=False)
    ).eval()
    # So that no layer blows up what rounding left: the model's own fp32 results are within 1e-5 of
    # its fp64 ones.
    for name, parameter in model.requires_grad_(False).named_parameters():
        if "normalization" in name:
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.1, std=0.1)
        else:
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="linear").mul_(1.2)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(buffer, std=0.1)
        if name.endswith("running_var"):
            torch.nn.init.uniform_(buffer, 0.8, 1.5)
    model.save_pretrained(FOLDER)
    expected = {}
    for size in SIZES:
        with torch.no_grad():
            found = model(_channels_first(torch, frames(size)))
        expected[f"map_{size}"] = found.last_hidden_state.numpy().transpose(0, 2, 3, 1)
        expected[f"pooled_{size}"] = found.pooler_output.numpy()
    np.savez_compressed(FOLDER / "expected.npz", **expected)


def _channels_first(torch, x: np.ndarray):
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


if __name__ == "__main__":
    main()
