"""Everything one run learnt, about every target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from loss_conformance.report.record import ERROR, Notes, Record
from loss_conformance.verdict import Status

__all__ = ["Run"]


class Run:
    """The records and notes of one run.

    Attributes:
        targets: the losses that were asked for.
        records: one for each check that ran, in running order.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        self.targets = tuple(targets)
        self.records: list[Record] = []
        self._notes: dict[str, Notes] = {}

    def add(self, record: Record) -> None:
        """Add how one check ended."""
        self.records.append(record)

    def note(self, target: str, notes: Notes) -> None:
        """Add what a process learnt about a target."""
        self._notes[target] = self._notes.get(target, Notes()).joined(notes)

    def records_of(self, target: str) -> list[Record]:
        """Return the records of one target."""
        return [record for record in self.records if record.target == target]

    def notes_of(self, target: str) -> Notes:
        """Return what was learnt about one target."""
        return self._notes.get(target, Notes())

    def counts(self, target: str) -> Counter[str]:
        """Return how often each status occurs."""
        return Counter(record.status for record in self.records_of(target))

    def complete(self, target: str) -> bool:
        """Return whether every check of the profile has run."""
        records = self.records_of(target)
        return bool(records) and len(records) >= max(record.out_of for record in records)

    def problems(self) -> list[str]:
        """Return why a run without a failing item is not green all the same."""
        tried = [record for record in self.records if record.applicable]
        if self.records and not tried:
            return ["nothing was tested: none of the checks that ran applies"]
        found = [
            f"{target}: nothing was tested: no check applies"
            for target in self.targets
            if self.complete(target) and not any(record.applicable for record in self.records_of(target))
        ]
        if tried and all(record.status == Status.BLOCKED for record in tried):
            found.append("nothing was tested: every check that ran is blocked by one that did not")
        return found

    def failing(self, *, strict: bool = False) -> list[Record]:
        """Return the records that fail the run: broken laws, what could not be run, and advice if ``strict``."""
        statuses = {Status.FAILED, ERROR, *([Status.ADVICE] if strict else [])}
        return [record for record in self.records if record.status in statuses]
