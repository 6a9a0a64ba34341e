"""A verdict as plain data: what crosses process borders and goes into the JSON report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from loss_conformance.verdict import Status, Verdict

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check

__all__ = ["ERROR", "Notes", "Record"]

ERROR: Final = "error"
"""Status of a record that is no verdict: the check could not be run."""


@dataclass(frozen=True)
class Record:
    """How one check of one loss ended. Plain JSON types throughout.

    Attributes:
        target: the loss as the user wrote it.
        check, group, severity, statement: what the table of checks says.
        status, reason, cases, seconds, failure: what the verdict says.
        block: the rendered failure; empty when there is none.
        out_of: number of checks the profile has for this loss, run or not.
    """

    target: str
    check: str
    group: str
    severity: str
    statement: str
    status: str
    reason: str
    cases: int
    seconds: float
    failure: dict[str, Any] | None
    block: str
    out_of: int

    @classmethod
    def of(cls, target: str, check: Check, verdict: Verdict, *, block: str = "", out_of: int = 0) -> Record:
        """Return the record of ``verdict``."""
        return cls(
            target=target,
            check=check.name,
            group=check.group,
            severity=str(check.severity),
            statement=check.statement,
            status=str(verdict.status),
            reason=verdict.reason,
            cases=verdict.cases,
            seconds=round(verdict.seconds, 4),
            failure=asdict(verdict.failure) if verdict.failure else None,
            block=block,
            out_of=out_of,
        )

    @classmethod
    def of_error(cls, target: str, name: str, block: str) -> Record:
        """Return the record of a check that could not be run at all."""
        reason = "could not be run"
        return cls(target, name, "", "must", "", ERROR, reason, 0, 0.0, None, block, 0)

    def properties(self) -> list[tuple[str, object]]:
        """Return what belongs into a JUnit file beside the text of the failure."""
        shown = {"group": self.group, "severity": self.severity, "status": self.status, "cases": self.cases}
        return [(f"loss_conformance.{name}", value) for name, value in shown.items()]

    def plain(self) -> dict[str, Any]:
        """Return the record as a dict of plain types; ``Record(**plain)`` gives it back."""
        return asdict(self)

    @property
    def applicable(self) -> bool:
        """Whether the law speaks about this loss at all."""
        return self.status != Status.NOT_APPLICABLE


@dataclass(frozen=True)
class Notes:
    """What was learnt about one loss besides its verdicts: header, contract facts, warnings. One line each."""

    header: tuple[str, ...] = ()
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def joined(self, other: Notes) -> Notes:
        """Return what two processes learnt about the same loss, each line once."""
        return Notes(
            self.header or other.header,
            tuple(dict.fromkeys(self.facts + other.facts)),
            tuple(dict.fromkeys(self.warnings + other.warnings)),
        )

    def plain(self) -> dict[str, list[str]]:
        """Return the notes as a dict of lists."""
        return {name: list(lines) for name, lines in asdict(self).items()}

    @classmethod
    def read(cls, plain: dict[str, list[str]]) -> Notes:
        """Return the notes that ``plain`` was made of."""
        return cls(**{name: tuple(lines) for name, lines in plain.items()})
