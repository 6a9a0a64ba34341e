"""What the engine is about to do with a loss, for whoever has to say what happened should it not come back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from loss_conformance.cases.plan import Plan

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check
    from loss_conformance.verdict import Verdict

__all__ = ["FIRST_CONTACT", "Answers", "Attempt", "Watch", "unwatched"]


@dataclass(frozen=True)
class Attempt:
    """One law on one case.

    Attributes:
        check: name of the check; empty while the inputs of the loss are being found.
        plan: the plan of the case; ``None`` for the user's own batch.
        route: which set of inputs the case fills.
    """

    check: str = ""
    plan: Plan | None = None
    route: int = 0


FIRST_CONTACT = Attempt()

Watch = Callable[[Attempt, float], contextlib.AbstractContextManager[None]]
"""Told of every attempt, and how many seconds it may take."""


def unwatched(attempt: Attempt, seconds: float) -> contextlib.AbstractContextManager[None]:
    """Tell nobody."""
    return contextlib.nullcontext()


class Answers(Protocol):
    """What the doors ask: of an engine here, or of one in a process of its own."""

    @property
    def target(self) -> str:
        """The loss as the user wrote it."""

    @property
    def seed(self) -> int:
        """The seed of the cases."""

    def checks(self) -> list[Check]:
        """Return every check of the profile in running order."""

    def run(self, name: str) -> Verdict:
        """Return the verdict of one check."""

    def facts(self) -> Sequence[str]:
        """Return one line per settled contract fact."""

    def warnings(self) -> Sequence[str]:
        """Return what a reader of a green run must know."""

    def header(self) -> Sequence[str]:
        """Return what ran on what."""

    def close(self) -> None:
        """Nothing more will be asked."""
