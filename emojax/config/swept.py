"""Settings in which runs may differ and still be one program, lane by lane."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from emojax.config.experiment import Config
from emojax.config.inputs import InputConfig
from emojax.config.reading import to_dict

T = TypeVar("T")

SCHEDULE = ("learning_rate", "final_learning_rate", "warmup")
"""Of `train`: what makes the rate of each step."""
TRAIN = (
    "weight_decay", "clip_norm", "label_smoothing", "auxiliary_weight", "distillation_weight",
    "distillation_temperature", "ema_decay",
)  # fmt: skip
DROPOUT = ("dropout", "input_dropout", "modality_dropout", "feature_mix")
"""Of `model`, like the next; the chances of something happening to an activation."""
MODEL = (*DROPOUT, "lambda_init")


def off(value: Any) -> bool:
    """Whether a setting is known to be 0, which leaves its part of the program out."""
    return isinstance(value, int | float) and value == 0


def structure(config: Config) -> str:
    """Equal for configs whose runs can be lanes of one program.

    Settings that are 0 or null in one of two configs and not in the other make two programs. Padded
    batches have shapes that depend on the seed.
    """
    known = to_dict(config)
    if config.data.layout == "packed":
        known["train"]["seed"] = None
    for name in SCHEDULE:
        known["train"][name] = None
    known["train"]["initialise_from"] = None  # lanes may start from anywhere
    for section, names in _names(config).items():
        for name in names:
            if known[section].get(name):
                known[section][name] = "any"
    return json.dumps(known, sort_keys=True)


def differing(configs: list[Config]) -> dict[str, list[str]]:
    """Of configs of one structure, the fields of each section that are not the same in all."""
    return {
        section: [
            name
            for name in names
            if len({getattr(getattr(config, section), name, None) for config in configs}) > 1
        ]
        for section, names in _names(configs[0]).items()
    }


def with_values(part: T, values: Mapping[str, Any]) -> T:
    """A section of a config whose fields hold what only a trace knows.

    Numbers were checked when the config was built; a tracer cannot be.
    """
    part = copy.copy(part)
    for name, value in values.items():
        object.__setattr__(part, name, value)
    return part


def _names(config: Config) -> dict[str, tuple[str, ...]]:
    # The published model drops inside attention maps, whose kernels want a number.
    return {"train": TRAIN, "model": MODEL if isinstance(config.model, InputConfig) else ()}
