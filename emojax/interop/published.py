"""The authors' checkpoints as files of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emojax.config import RedifuAuthorsConfig
from emojax.errors import ConfigError, DataError
from emojax.interop.authors import from_state_dict, state_shapes
from emojax.interop.torch_checkpoint import read_torch_checkpoint
from emojax.interop.weights import Weights, write
from emojax.nn.layers import identity_statistics
from emojax.types import Signature

_UNREAD = ("modality_scales", "inv_freq", "pos_emb.pe")


def import_checkpoint(
    path: Path, out: Path, labels: Sequence[str], speakers: Sequence[str] | None = None, *,
    heads: int = 64, window: int = 20,
) -> Path:  # fmt: skip
    """Read a checkpoint of the published implementation and write it as a file of weights.

    Sizes and the branch are those of its tensors. Features are not scaled, as in the authors'
    scripts.

    Args:
      path: what `torch.save` wrote; nothing of it is run.
      out: the safetensors file.
      labels: names of the emotions, in the checkpoint's order.
      speakers: names of the speakers; "0", "1", ... if left out.
      heads, window: which no tensor tells; the defaults are those of the paper's IEMOCAP runs.

    Raises:
      DataError: the file cannot be read or holds another model.
      ConfigError: names or sizes that do not fit the tensors.
    """
    state = read_torch_checkpoint(path)
    weights = weights_of_state(state, labels, speakers, heads=heads, window=window, file=path)
    return write(out, weights)


def weights_of_state(
    state: Mapping[str, np.ndarray], labels: Sequence[str], speakers: Sequence[str] | None, *,
    heads: int, window: int, file: object,
) -> Weights:  # fmt: skip
    """See `import_checkpoint`."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in state or state[name].ndim != 2:
            raise DataError(
                "there is no such matrix", file=file, field=name,
                fix="Give a checkpoint of the published ReDiFu model",
            )  # fmt: skip
        return state[name].shape

    rows, width = shape("speaker_embeddings.weight")
    classes = shape("t_output_layer.2.weight")[0]
    if len(labels) != classes or len(set(labels)) != classes:
        raise ConfigError(
            f"the model has {classes} emotions; --labels must name as many, once each"
        )
    if speakers is None:
        speakers = [str(i) for i in range(rows - 1)]
    if len(speakers) != rows - 1:
        raise ConfigError(f"the model has {rows - 1} speakers; --speakers must name as many")
    text, audio, visual = (shape(f"{name}_input.weight")[1] for name in ("textf", "acouf", "visuf"))
    config = RedifuAuthorsConfig(
        branch="iemocap" if "a_a.pos_emb.inv_freq" in state else "meld", width=width, heads=heads,
        window=window,
    )  # fmt: skip
    signature = Signature("published", tuple(labels), tuple(speakers), (text, audio, visual))
    for name, expected in state_shapes(config, signature).items():
        if name.endswith(_UNREAD):
            continue
        if name not in state or state[name].shape != expected:
            found = state[name].shape if name in state else "missing"
            raise DataError(f"{found}, where {expected} is expected", file=file, field=name)
        if not np.isfinite(state[name].astype(np.float32)).all():
            raise DataError("its values are not finite", file=file, field=name)
    params = from_state_dict({name: x.astype(np.float32) for name, x in state.items()})
    variables = {"params": params, "statistics": identity_statistics(signature.widths)}
    return Weights(config, signature, variables, None, {"checkpoint": str(file)})
