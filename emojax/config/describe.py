"""Every setting with its default and its meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from typing import Any

from emojax.config.data import DataConfig
from emojax.config.experiment import MODELS, MeshConfig
from emojax.config.finetune import FinetuneConfig
from emojax.config.train import TrainConfig
from emojax.errors import ConfigError


def describe(model: str = "redifu") -> str:
    """Every setting as a commented TOML document, defaults as values."""
    if model not in MODELS:
        raise ConfigError(f"there is no model {model!r}; known are {', '.join(MODELS)}")
    data = DataConfig(layout="padded") if model == "redifu_authors" else DataConfig()
    return _document({
        "data": data, "model": MODELS[model](), "train": TrainConfig(), "mesh": MeshConfig()
    })  # fmt: skip


def describe_finetuning() -> str:
    """The same of fine-tuning a text encoder."""
    config = FinetuneConfig()
    return _document({"data": config.data, "text": config.text, "train": config.train})


def _document(sections: Mapping[str, Any]) -> str:
    lines = []
    for section, config in sections.items():
        purpose = inspect.cleandoc(type(config).__doc__ or "").splitlines()
        lines += ["", *(f"# {line}" for line in purpose), f"[{section}]"]
        notes = _field_notes(type(config))
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            text = "null" if value is None else json.dumps(value)
            comment = f"# {field.name} is not set" if value is None else f"{field.name} = {text}"
            lines += [f"# {line}" for line in notes.get(field.name, "").splitlines()]
            lines.append(comment)
    return "\n".join(lines).strip()


def _field_notes(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a config class and its bases in their source."""
    notes: dict[str, str] = {}
    for each in reversed([cls for cls in kind.__mro__ if dataclasses.is_dataclass(cls)]):
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        assert isinstance(definition, ast.ClassDef)
        for field, note in itertools.pairwise(definition.body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(note, ast.Expr)
                and isinstance(note.value, ast.Constant)
            ):
                notes[field.target.id] = inspect.cleandoc(str(note.value.value))
    return notes
