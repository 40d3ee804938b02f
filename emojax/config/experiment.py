"""A whole experiment, and what of it must fit together."""

from __future__ import annotations

import dataclasses
from typing import get_args, get_type_hints

from emojax.config import baselines
from emojax.config.checks import positive, require
from emojax.config.data import OWN_BUCKET_STEP, PADDED_STEP, DataConfig
from emojax.config.redifu import RedifuAuthorsConfig, RedifuConfig
from emojax.config.shared_space import SharedSpaceConfig
from emojax.config.train import TrainConfig

ModelConfig = (
    RedifuConfig
    | RedifuAuthorsConfig
    | baselines.SingleConfig
    | baselines.EarlyFusionConfig
    | baselines.LateFusionConfig
    | baselines.LateTransformerConfig
    | baselines.HybridFusionConfig
    | baselines.AttentionFusionConfig
    | baselines.BcLstmConfig
    | baselines.CnnRnnConfig
    | baselines.TensorFusionConfig
    | baselines.LowRankFusionConfig
    | baselines.MultConfig
    | baselines.DialogueGcnConfig
    | baselines.SdtConfig
    | SharedSpaceConfig
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged: their number is the product of these axes."""

    data: int | None = None
    """Devices that share the rows of a batch; None is all that the other axes leave."""
    fsdp: int = 1
    """Devices that share the rows of a batch and hold a share of parameters and optimiser each."""
    sequence: int = 1
    """Devices that share the columns of a row, for long conversations."""
    model: int = 1
    """Devices that share the attention heads and the hidden units of the feed-forward layers."""

    def __post_init__(self) -> None:
        positive(self, "mesh", "fsdp", "sequence", "model")
        if self.data is not None:
            positive(self, "mesh", "data")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=RedifuConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        self._check_mesh()
        if isinstance(self.model, RedifuAuthorsConfig):
            require(
                self.data.layout == "padded", "data.layout",
                'must be "padded" for redifu_authors, whose fusion would mix the conversations '
                "of a packed row",
            )  # fmt: skip
        if isinstance(self.model, SharedSpaceConfig):
            require(
                self.train.accumulate == 1, "train.accumulate",
                f"must be 1 for {self.model.name}: contrast needs all utterances of a batch at "
                "once. Use mesh.data",
            )  # fmt: skip

    def _check_mesh(self) -> None:
        """What each axis divides must be divisible."""
        mesh, model = self.mesh, self.model
        if not isinstance(model, RedifuConfig):
            for name in ("sequence", "model"):
                require(
                    getattr(mesh, name) == 1, f"mesh.{name}",
                    f"must be 1 for {model.name}: only redifu is divided along conversations and "
                    "layers. Use mesh.data and mesh.fsdp",
                )  # fmt: skip
        for axis, field in (("model", "heads"), ("model", "graph_heads")):
            size, value = getattr(mesh, axis), getattr(model, field, 0)
            require(
                value % size == 0,
                f"mesh.{axis}",
                f"must divide model.{field} = {value}, not {size}",
            )
        shares = mesh.fsdp * mesh.model
        require(
            model.width % shares == 0, "model.width",
            f"must be a multiple of mesh.fsdp x mesh.model = {shares}, not {model.width}",
        )  # fmt: skip
        # Predictions may be asked for of conversations longer than any in training.
        lengths = (*self.data.buckets, OWN_BUCKET_STEP) if self.data.buckets else (PADDED_STEP,)
        for length in lengths if mesh.sequence > 1 else ():
            require(
                length % mesh.sequence == 0 and length >= 2 * mesh.sequence, "mesh.sequence",
                f"must divide every row length (data.buckets) into parts of 2 or more, not "
                f"{mesh.sequence}: there are rows of {length}",
            )  # fmt: skip


MODELS: dict[str, type] = {
    get_args(get_type_hints(cls)["name"])[0]: cls for cls in get_args(ModelConfig)
}
"""Config class of every model, by the model's name."""
