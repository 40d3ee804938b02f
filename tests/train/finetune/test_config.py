"""Settings of fine-tuning: checked when they are built, and described."""

from __future__ import annotations

import dataclasses
import tomllib
import typing

import pytest

from emojax.cli import main
from emojax.config import FinetuneConfig, describe_finetuning, from_dict, to_dict
from emojax.errors import ConfigError

WRONG = [
    ("data", "batch", 0), ("data", "validation_fraction", 1.0), ("data", "train_share", 0.0),
    ("data", "buckets", [32, 16]), ("data", "buckets", [64]), ("text", "turns", -1),
    ("text", "tokens", 0), ("text", "dropout", 1.0), ("text", "freeze_layers", -1),
    ("text", "lora_rank", -1), ("text", "lora_alpha", 0.0), ("text", "dtype", "float16"),
    ("train", "epochs", 0), ("train", "seed", -1), ("train", "learning_rate", 0.0),
    ("train", "head_learning_rate", -1.0), ("train", "layer_decay", 1.1),
    ("train", "layer_decay", 0.0), ("train", "warmup", 1.0), ("train", "weight_decay", -0.1),
    ("train", "clip_norm", 0.0), ("train", "label_smoothing", 1.0),
    ("train", "class_weights", "some"), ("train", "ema_decay", 1.0), ("train", "select", "luck"),
    ("train", "checkpoint_every", 0),
]  # fmt: skip


@pytest.mark.parametrize(("section", "name", "value"), WRONG)
def test_impossible_values_name_their_field(section: str, name: str, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{name}"):
        from_dict({section: {name: value}}, FinetuneConfig)


def test_every_field_with_choices_or_bounds_is_checked():
    tried = {(section, name) for section, name, _ in WRONG}
    for section, kind in typing.get_type_hints(FinetuneConfig).items():
        for field in dataclasses.fields(kind):
            free = field.type == "bool" or field.name in ("source", "split_rule", "encoder")
            assert free or (section, field.name) in tried, (section, field.name)


def test_what_is_drawn_cannot_be_frozen():
    with pytest.raises(ConfigError, match=r"text\.pretrained"):
        from_dict({"text": {"pretrained": False, "freeze_layers": 1}}, FinetuneConfig)


def test_settings_are_listed_with_their_defaults(capsys):
    assert main(["config", "--finetune-text"]) == 0
    text = capsys.readouterr().out
    assert text == describe_finetuning() + "\n"
    assert from_dict(tomllib.loads(text), FinetuneConfig) == FinetuneConfig()
    assert from_dict(to_dict(FinetuneConfig()), FinetuneConfig) == FinetuneConfig()
