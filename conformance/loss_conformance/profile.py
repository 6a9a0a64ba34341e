"""Profiles: how much time a run may take, and what it spends it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from loss_reference.names import nearest_name

__all__ = ["PROFILES", "Profile", "profile_named"]


@dataclass(frozen=True)
class Profile:
    """How thorough a run is.

    Attributes:
        name: what users type.
        cases: cases per situation.
        seconds: time limit of one check.
        costs: the cost classes of checks it runs.
    """

    name: str
    cases: int
    seconds: float
    costs: tuple[str, ...]

    def includes(self, cost: str) -> bool:
        """Return whether checks of this cost class belong to the profile."""
        return cost in self.costs


PROFILES: Final = {
    "quick": Profile("quick", 1, 20.0, ("quick",)),
    "standard": Profile("standard", 3, 30.0, ("quick", "standard")),
    "thorough": Profile("thorough", 12, 120.0, ("quick", "standard", "thorough")),
}


def profile_named(name: str) -> Profile:
    """Return the profile called ``name``.

    Raises:
        ValueError: there is none. Names the nearest.
    """
    if name not in PROFILES:
        raise ValueError(f"no profile {name!r}; expected one of {', '.join(PROFILES)}{nearest_name(name, PROFILES)}")
    return PROFILES[name]
