"""What the engine answers: result objects, the same for every door."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

__all__ = ["Failure", "Report", "Status", "Verdict"]


class Status(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    ADVICE = "advice"  # the law does not hold, but it is advice or rests on a guess: does not fail a run
    EXPECTED_FAILURE = "expected failure"  # exempt in the contract, and the law really does not hold
    BLOCKED = "blocked"  # a prerequisite failed, so the answer would say nothing new
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Failure:
    """One broken law on one case.

    Attributes:
        law: the statement that does not hold.
        case: the smallest batch that shows it, one line per fact worth knowing.
        changed: what the law changed between the two evaluations, if anything.
        got, wanted: what the loss gave and what the law demands, ready to print.
        tolerance: how far apart they may be and where that comes from; empty for exact laws.
        cause: the likeliest cause, when the check can tell more than its general text.
        traceback: the user's own frames when the loss raised.
    """

    law: str
    case: str = ""
    changed: str = ""
    got: str = ""
    wanted: str = ""
    tolerance: str = ""
    cause: str = ""
    traceback: str = ""
    declare: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Verdict:
    """The answer of one check about one loss.

    Attributes:
        check: name of the check.
        group: its group.
        status: how it ended.
        reason: why it did not apply, what blocked it, or why it was expected to fail.
        failure: the broken law, when there is one.
        cases: number of cases the law was tried on.
        seconds: wall clock.
    """

    check: str
    group: str
    status: Status
    reason: str = ""
    failure: Failure | None = None
    cases: int = 0
    seconds: float = 0.0

    def with_seconds(self, seconds: float) -> Verdict:
        """Return the same verdict with its wall clock filled in."""
        return replace(self, seconds=seconds)


@dataclass(frozen=True)
class Report:
    """Every verdict about one loss, with what was learnt about it on the way.

    Attributes:
        target: the loss as the user wrote it.
        verdicts: one per check, in the order they ran.
        facts: one line per contract fact and where it comes from (declared, inherited, inferred).
        warnings: what a reader of a green run must know, such as regions that were never entered.
        seed: the seed the cases were drawn from.
    """

    target: str
    verdicts: tuple[Verdict, ...]
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    seed: int = 0

    def having(self, status: Status) -> tuple[Verdict, ...]:
        """Return the verdicts with this status."""
        return tuple(verdict for verdict in self.verdicts if verdict.status is status)

    @property
    def conformant(self) -> bool:
        """Whether at least one law was tried and none is broken."""
        tried = [v for v in self.verdicts if v.status is not Status.NOT_APPLICABLE]
        return bool(tried) and not any(v.status in (Status.FAILED, Status.BLOCKED) for v in tried)
