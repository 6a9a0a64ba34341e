"""When a law does not apply: conditions several checks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loss_conformance.trial import Trial

__all__ = ["looks_coupled", "unless"]


def unless(*facts: str) -> Callable[[Trial], str | None]:
    """Return a condition that switches a law off when one of these contract facts is true, saying which and whence."""

    def applies(trial: Trial) -> str | None:
        for fact in facts:
            if getattr(trial.facts.contract, fact):
                return f"{fact} = True ({trial.facts.origin[fact]})"
        return None

    return applies


def looks_coupled(trial: Trial) -> bool:
    """Return whether rows were measured to look at each other although nothing says whether they should."""
    return trial.bench.coupling.across and not trial.facts.promised("coupled")
