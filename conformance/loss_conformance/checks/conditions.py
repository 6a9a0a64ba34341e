"""When a law does not apply: conditions several checks share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from loss_conformance.facts.coupling import Coupling

if TYPE_CHECKING:
    from loss_conformance.trial import Trial

__all__ = ["declared_only", "looks_coupled", "no_rows", "unless", "unless_rebuilt"]


def unless(*facts: str) -> Callable[[Trial], str | None]:
    """Return a condition that switches a law off when one of these contract facts is true, saying which and whence."""

    def applies(trial: Trial) -> str | None:
        for fact in facts:
            if getattr(trial.facts.contract, fact):
                return f"{fact} = True ({trial.facts.origin[fact]})"
        return None

    return applies


def unless_rebuilt(trial: Trial) -> str | None:
    """Return why no other settings can be tried: the loss was given as an instance."""
    if trial.bench.subject.rebuild is None:
        return "an instance cannot be constructed again with other settings"
    return None


def looks_coupled(trial: Trial) -> bool:
    """Return whether rows were measured to look at each other although nothing says whether they should."""
    if trial.bench.coupling is Coupling.COUNT and trial.facts.promised("normalizer"):
        return False  # what the rows are divided by was promised
    return trial.bench.coupling.across and not trial.facts.promised("coupled")


def declared_only(trial: Trial, fact: str, doubtful: bool = False) -> dict[str, Any]:
    """Return how to report a law that rests on ``fact``: a subclass inherits it, and may add terms of another kind."""
    declared = trial.facts.origin.get(fact) == "declared" and not doubtful and not looks_coupled(trial)
    return {} if declared else {"guessed": True, "declare": f"Contract({fact}=...)"}


def no_rows(trial: Trial) -> str | None:
    """Return why the rows of the batch cannot be dealt out, or ``None`` when they can."""
    if any(slot.role == "pairs" for slot in trial.case.slots()):
        return "its rows are addressed by index, so they cannot be dealt out"
    if not any(slot.row_axis is not None for slot in trial.case.slots()):
        return "it has no rows"
    return None
