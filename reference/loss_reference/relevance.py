"""When a setting is read: what has to hold of other settings for it to have an effect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Condition", "unless", "where"]


@dataclass(frozen=True)
class Condition:
    """A statement about one setting, or about any of several: ``where("kl_type", "mixed") | unless("alpha", 0)``.

    Args:
        setting: name of the attribute that holds the other setting.
        values: values of it that are spoken of.
        among: True where it has to be one of them, False where it must be none of them.
        otherwise: conditions of which any one will do in the place of this one.
    """

    setting: str
    values: tuple[Any, ...]
    among: bool
    otherwise: tuple[Condition, ...] = ()

    def __or__(self, other: Condition) -> Condition:
        return Condition(self.setting, self.values, self.among, (*self.otherwise, other))

    def holds(self, loss: object) -> bool:
        """Return whether it holds of the settings ``loss`` has."""
        given = getattr(loss, self.setting)
        found = any(given is value or bool(given == value) for value in self.values)
        return found == self.among or any(other.holds(loss) for other in self.otherwise)

    def found(self, loss: object) -> str:
        """Return what the settings it speaks of are: ``"alpha=0 and temper_hard=False"``."""
        own = f"{self.setting}={getattr(loss, self.setting)!r}"
        return " and ".join((own, *(other.found(loss) for other in self.otherwise)))

    def __str__(self) -> str:
        values = " or ".join(map(repr, self.values))
        own = f"{self.setting} is {values}" if self.among else f"{self.setting} is not {values}"
        return " or ".join((own, *map(str, self.otherwise)))


def where(setting: str, *values: Any) -> Condition:
    """Return the condition that ``setting`` is one of ``values``."""
    return Condition(setting, values, among=True)


def unless(setting: str, *values: Any) -> Condition:
    """Return the condition that ``setting`` is none of ``values``: a part of weight 0 reads nothing."""
    return Condition(setting, values, among=False)
