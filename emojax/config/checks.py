"""What a value of a config must be."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints

from emojax.errors import ConfigError


def require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise ConfigError(f"{field} {problem}")


def fraction(config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(0 <= value < 1, f"{section}.{name}", f"must be in [0, 1), not {value}")


def positive(config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(
            0 < value < math.inf, f"{section}.{name}", f"must be positive and finite, not {value}"
        )


def choices(config: Any, section: str) -> None:
    # `from_dict` is not the only way in: a study builds these classes directly.
    for name, kind in get_type_hints(type(config)).items():
        several = get_origin(kind) is tuple
        kind = get_args(kind)[0] if several else kind
        if get_origin(kind) is Literal:
            allowed = get_args(kind)
            listed = ", ".join(map(repr, allowed))
            for value in getattr(config, name) if several else [getattr(config, name)]:
                known = any(type(value) is type(choice) and value == choice for choice in allowed)
                require(known, f"{section}.{name}", f"must be one of {listed}, not {value!r}")
