"""Ways to spoil a conversation, and the texts that name them in configs and studies.

A text is a kind, the modalities it is done to ("+" between them; all if left out) and numbers:

  noise:audio+visual:snr=0:share=0.5:length=8   noise of 0 dB in stretches of 8 utterances, half of
                                                all utterances inside one
  freeze:visual:share=0.5                       video that repeats what it showed last
  drop:visual:share=0.5                         video that is not there
  missing:rate=0.5                              observations missing at random
  missing_modality:rate=0.5                     modalities missing for whole conversations

`emojax.data.corruptions` does what they say.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from emojax.errors import ConfigError

MODALITIES = ("text", "audio", "visual")
"""As in `emojax.types`, which comes with arrays that a config has no use for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corruption:
    """One way to spoil a conversation; `str` is its text.

    Attributes:
      modalities: what it is done to, in the order of `MODALITIES`.

    Raises:
      ConfigError: a value is out of its range.
    """

    kind: ClassVar[str]
    modalities: tuple[str, ...] = MODALITIES

    def __post_init__(self) -> None:
        known = [each for each in MODALITIES if each in self.modalities]
        if list(self.modalities) != known or not known:
            raise ConfigError(
                f"{self.kind} is of modalities {'+'.join(self.modalities) or 'none'}: name some of "
                f"{'+'.join(MODALITIES)} in this order, none twice"
            )

    def __str__(self) -> str:
        parts = [self.kind]
        if self.modalities != MODALITIES:
            parts.append("+".join(self.modalities))
        for field in _numbers(type(self)):
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name}={float(value)!r}".removesuffix(".0"))
        return ":".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stretches(Corruption):
    """What comes in stretches of utterances, of each modality on its own: a Markov chain.

    Attributes:
      share: expected share of the utterances inside a stretch.
      length: mean number of utterances of a stretch that the conversation does not cut short.
    """

    share: float
    length: float = 8.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, "share", 0, 1)
        least = max(1.0, self.share / (1 - self.share)) if self.share < 1 else 1.0
        if not least * (1 - 1e-9) <= self.length < math.inf:
            raise ConfigError(
                f"{self.kind}: length must be finite and at least {least:g}, not {self.length}: "
                f"shorter stretches do not cover a share of {self.share}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(_Stretches):
    """Gaussian noise on the features.

    Attributes:
      snr: how far each feature's variance over the training split is above that of its noise, dB.
    """

    kind: ClassVar[str] = "noise"
    snr: float
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, "snr", -100, 100)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Freeze(_Stretches):
    """Features stay those of the last observation before the stretch."""

    kind: ClassVar[str] = "freeze"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drop(_Stretches):
    """Observations are missing, even where the utterance has no other."""

    kind: ClassVar[str] = "drop"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Missing(Corruption):
    """Observations are missing at random, but each utterance keeps one of those it had.

    Attributes:
      rate: chance of each observation to be missing, but for those that are kept.
    """

    kind: ClassVar[str] = "missing"
    rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _within(self, "rate", 0, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MissingModality(Missing):
    """As `Missing`, but for a whole conversation: a modality misses all of its observations, or
    none. Utterances that would be left with nothing keep one that they had."""

    kind: ClassVar[str] = "missing_modality"


KINDS: dict[str, type[Corruption]] = {
    each.kind: each for each in (Noise, Freeze, Drop, Missing, MissingModality)
}


def parse(text: str) -> Corruption:
    """The corruption that a text names.

    Raises:
      ConfigError: it names none.
    """
    name, *parts = text.split(":")
    if name not in KINDS:
        raise ConfigError(f"{text!r}: there is no {name!r}, only {', '.join(KINDS)}")
    kind = KINDS[name]
    modalities: tuple[str, ...] = MODALITIES
    if parts and "=" not in parts[0]:
        named = parts.pop(0).split("+")
        unknown = [each for each in named if each not in MODALITIES]
        if unknown:
            raise ConfigError(f"{text!r}: {unknown[0]!r} is no modality. Write {usage(kind)}")
        modalities = tuple(sorted(named, key=MODALITIES.index))
    numbers: dict[str, float] = {}
    known = {field.name: field for field in _numbers(kind)}
    for part in parts:
        field, _, value = part.partition("=")
        if field not in known or field in numbers:
            raise ConfigError(f"{text!r}: {part!r} is out of place. Write {usage(kind)}")
        try:
            numbers[field] = float(value)
        except ValueError:
            raise ConfigError(f"{text!r}: {field} must be a number, not {value!r}") from None
    for field, its in known.items():
        if field not in numbers and its.default is dataclasses.MISSING:
            raise ConfigError(f"{text!r}: {field} is not there. Write {usage(kind)}")
    return kind(modalities=modalities, **numbers)


def parse_all(texts: Iterable[str]) -> tuple[Corruption, ...]:
    """Corruptions to be done one after the other.

    Raises:
      ConfigError: a text names none, or two would draw the same numbers.
    """
    found = tuple(map(parse, texts))
    seen: set[tuple[str, str]] = set()
    for each in found:
        twice = [m for m in each.modalities if (each.kind, m) in seen]
        if twice:
            raise ConfigError(f"{each.kind} is there twice for {twice[0]}. Join the two into one")
        seen |= {(each.kind, m) for m in each.modalities}
    return found


def usage(kind: type[Corruption]) -> str:
    """How the text of a kind is written, optional parts in brackets."""
    written = [
        f":{field.name}=…" if field.default is dataclasses.MISSING else f"[:{field.name}=…]"
        for field in _numbers(kind)
    ]
    return f"{kind.kind}[:{'+'.join(MODALITIES)}]{''.join(written)}"


def _numbers(kind: type[Corruption]) -> list[dataclasses.Field[float]]:
    """Fields besides the modalities, those that must be given first."""
    found = [field for field in dataclasses.fields(kind) if field.name != "modalities"]
    return sorted(found, key=lambda field: field.default is not dataclasses.MISSING)


def _within(corruption: Corruption, name: str, low: float, high: float) -> None:
    value = getattr(corruption, name)
    if not low <= value <= high:
        raise ConfigError(f"{corruption.kind}: {name} must be in [{low}, {high}], not {value}")
