"""When a law does not apply: conditions several checks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loss_conformance.trial import Trial

__all__ = ["no_rows", "unless"]


def unless(*facts: str) -> Callable[[Trial], str | None]:
    """Return a condition that switches a law off when one of these contract facts is true, saying which and whence."""

    def applies(trial: Trial) -> str | None:
        for fact in facts:
            if getattr(trial.facts.contract, fact):
                return f"{fact} = True ({trial.facts.origin[fact]})"
        return None

    return applies


def no_rows(trial: Trial) -> str | None:
    """Return why the rows of the batch cannot be dealt out, or ``None`` when they can."""
    if any(slot.role == "pairs" for slot in trial.case.slots()):
        return "its rows are addressed by index, so they cannot be dealt out"
    if not any(slot.row_axis is not None for slot in trial.case.slots()):
        return "it has no rows"
    return None
