"""The one schema of an experiment: frozen dataclasses, checked when they are built.

`load` reads a TOML file, `override` applies `section.field=value` pairs as the command line gives
them, `to_dict` is what reports, checkpoints and hashes keep. A wrong value raises `ConfigError`
with the field's name and what would be right, before anything is compiled.
"""

from emojax.config.data import OWN_BUCKET_STEP, PADDED_STEP, DataConfig
from emojax.config.describe import describe, describe_finetuning
from emojax.config.experiment import MODELS, Config, MeshConfig, ModelConfig
from emojax.config.finetune import FinetuneConfig
from emojax.config.reading import digest, from_dict, load, override, to_dict
from emojax.config.redifu import RedifuAuthorsConfig, RedifuConfig
from emojax.config.train import TrainConfig

__all__ = [
    "MODELS",
    "OWN_BUCKET_STEP",
    "PADDED_STEP",
    "Config",
    "DataConfig",
    "FinetuneConfig",
    "MeshConfig",
    "ModelConfig",
    "RedifuAuthorsConfig",
    "RedifuConfig",
    "TrainConfig",
    "describe",
    "describe_finetuning",
    "digest",
    "from_dict",
    "load",
    "override",
    "to_dict",
]
