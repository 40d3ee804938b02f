"""Configs from files, dictionaries and assignments, and back."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import cattrs
from cattrs.gen import make_dict_structure_fn

from emojax.config.experiment import MODELS, Config, ModelConfig
from emojax.config.redifu import RedifuConfig
from emojax.errors import ConfigError

T = TypeVar("T")


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(value: Any, kind: type) -> Any:
        # cattrs would call int("3") or bool("no"); a config means what it says.
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"must be {kind.__name__}, not {value!r}")
        return kind(value)

    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, strict)

    def several(value: Any, kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"must be a list, not {value!r}")
        return tuple(converter.structure(item, get_args(kind)[0]) for item in value)

    converter.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, several)
    # The classes check themselves which choices there are.
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is Literal, lambda value, _: value
    )

    def table(kind: type) -> Any:
        structure: Any = make_dict_structure_fn(kind, converter)

        def read(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ConfigError(f"must be a table of fields, not {value!r}")
            return structure(value, kind)

        return read

    converter.register_structure_hook_factory(dataclasses.is_dataclass, table)

    def model(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ConfigError(f"must be a table of fields, not {value!r}")
        name = value.get("name", RedifuConfig().name)
        if not isinstance(name, str) or name not in MODELS:
            raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, not {name!r}")
        return converter.structure(value, MODELS[name])

    converter.register_structure_hook(ModelConfig, model)
    return converter


_CONVERTER = _converter()


def _explain(error: BaseException, path: str = "") -> str:
    """The first leaf of a cattrs error, as one sentence with the field's path."""
    if isinstance(error, cattrs.BaseValidationError):
        inner = error.exceptions[0]
        notes = [note for note in getattr(inner, "__notes__", []) if hasattr(note, "name")]
        name = f"{path}.{notes[0].name}" if path and notes else notes[0].name if notes else path
        return _explain(inner, name)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        unknown = sorted(error.extra_fields)[0]
        close = difflib.get_close_matches(unknown, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        return f"{path + '.' if path else ''}{unknown} is not a field{hint}"
    text = str(error)
    return f"{path} {text}" if path and not text.startswith(path) else text


def from_dict(values: dict[str, Any], kind: type[T] = Config) -> T:  # type: ignore[assignment]
    """Build a config from nested dictionaries; raises `ConfigError` naming the field."""
    try:
        return _CONVERTER.structure(values, kind)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_explain(error)) from error


_LATER: dict[str, dict[str, Any]] = {
    "model": {"alignment": "none"}, "train": {"initialise_from": ""},
}  # fmt: skip
"""Settings that came after results were stored. At these values they do not count in a hash, so
that stored results are still found."""


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionaries of plain values; `from_dict` reads them back to an equal config."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def digest(config: Any) -> str:
    """Hash of every value of a config, independent of the order of fields."""
    # Read back first: 0 and 0.0 are the same rate and must not differ in the hash.
    values = to_dict(from_dict(to_dict(config), type(config)))
    for section, later in _LATER.items():
        known = values.get(section, {})
        for name, default in later.items():
            if name in known and known[name] == default:
                del known[name]
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(path: str | Path) -> dict[str, Any]:
    """Values of a TOML file, not yet a config: `override` them, then `from_dict`."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply `section.field=value` strings; values are TOML, "null" is None,
    and bare words are strings."""
    values = copy.deepcopy(values)
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        section, _, field = name.strip().partition(".")
        if not separator or not section or not field:
            raise ConfigError(f"{assignment!r} is not of the form section.field=value")
        if text.strip() == "null":
            value: Any = None
        else:
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                value = text.strip()
        target = values.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{section} is a table of fields, not {target!r}")
        target[field] = value
    return values
