"""A planted fault: a loss with one real mistake, beside the same loss without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from loss_reference import Contract

FAILED: Final = "failed"
ADVICE: Final = "advice"
UNSEEN: Final = "unseen"


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        id: row of the study of real bugs (``B001``), or ``X…`` for one added here.
        what: the mistake, wrong versus right.
        citation: where it happened; empty for those added here.
        wrong, right: the two losses; neither declares a contract itself.
        groups: groups of checks of which at least one must fail on ``wrong``.
        contract: what both promise when a contract is given.
        advice: the check that catches it only advises, whatever is declared.
        profile: the cheapest profile with a check that sees it.
        bare: how the mistake is told when nothing is declared: ``"failed"``, ``"advice"`` or ``"unseen"``.
    """

    id: str
    what: str
    citation: str
    wrong: Callable[..., Any]
    right: Callable[..., Any]
    groups: tuple[str, ...]
    contract: Contract
    bare: str = FAILED
    advice: bool = False
    profile: str = "quick"

    def __str__(self) -> str:
        return self.id


def by_id(faults: Iterable[Fault]) -> dict[str, Fault]:
    """Return the faults by id; two with one id are a mistake of ours."""
    found: dict[str, Fault] = {}
    for fault in faults:
        if fault.id in found:
            raise ValueError(f"two faults are called {fault.id}")
        found[fault.id] = fault
    return found
