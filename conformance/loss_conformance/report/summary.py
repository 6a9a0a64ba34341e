"""The end of a run: denominators, what did not apply and why, what was guessed, what was hardly exercised, advice."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from loss_conformance.report.record import ERROR, Record
from loss_conformance.report.run import Run
from loss_conformance.verdict import Status

__all__ = ["Line", "denominators", "summary_lines"]

_COUNTED: Final = (
    (Status.PASSED, "passed"),
    (Status.FAILED, "failed"),
    (ERROR, "could not be run"),
    (Status.EXPECTED_FAILURE, "expected failure"),
    (Status.ADVICE, "advice"),
    (Status.BLOCKED, "blocked"),
)


@dataclass(frozen=True)
class Line:
    """A line of the summary, and how pytest may colour it."""

    text: str
    markup: dict[str, bool] = field(default_factory=dict)


def denominators(run: Run, target: str) -> str:
    """Return ``31 applicable, 29 passed, 1 failed, 1 advice; 6 not applicable`` for one target."""
    counts = run.counts(target)
    if counts.total() == counts[ERROR]:
        return f"{target}: nothing was tested: the checks could not be run"
    aside = counts[Status.NOT_APPLICABLE]
    parts = [f"{counts.total() - aside} applicable"]
    parts += [f"{counts[status]} {word}" for status, word in _COUNTED if counts[status] or status == Status.PASSED]
    text = f"{target}: {', '.join(parts)}; {aside} not applicable"
    if run.complete(target):
        return text
    of = max(record.out_of for record in run.records_of(target))
    return f"{text}; not a conformance result: {counts.total()} of {of} checks ran"


def summary_lines(run: Run, *, brief: bool = False, with_header: bool = True) -> Iterator[Line]:
    """Yield the summary.

    Args:
        brief: only the denominators, and what turns the run red.
        with_header: say what ran on what, because nobody has said so yet.
    """
    for target in run.targets:
        if not run.records_of(target):
            yield Line(f"{target}: no check ran", {"yellow": True})
            continue
        yield Line(denominators(run, target), {"bold": True, _colour(run.records_of(target)): True})
        if with_header and not brief:
            yield from (Line(f"  {text}") for text in run.notes_of(target).header)
        if not brief:
            yield from _details(run, target)
    for problem in run.problems():
        yield Line(problem, {"red": True})


def _colour(records: list[Record]) -> str:
    statuses = {record.status for record in records}
    if statuses & {Status.FAILED, Status.BLOCKED, ERROR}:
        return "red"
    return "yellow" if Status.ADVICE in statuses else "green"


def _details(run: Run, target: str) -> Iterator[Line]:
    records, notes = run.records_of(target), run.notes_of(target)
    yield from _grouped("not applicable", records, Status.NOT_APPLICABLE)
    yield from _grouped("blocked", records, Status.BLOCKED)
    yield from _grouped("expected failure", records, Status.EXPECTED_FAILURE)
    yield from _listed("guessed", [fact for fact in notes.facts if "(inferred" in fact])
    yield from _listed("warning", list(notes.warnings), {"yellow": True})
    for record in records:
        if record.status == Status.ADVICE:
            yield Line("")
            yield from (Line(text) for text in record.block.splitlines())


def _grouped(title: str, records: list[Record], status: Status) -> Iterator[Line]:
    reasons: dict[str, list[str]] = {}
    for record in records:
        if record.status == status:
            reasons.setdefault(record.reason, []).append(record.check)
    yield from _listed(title, [f"{reason}: {', '.join(names)}" for reason, names in reasons.items()])


def _listed(title: str, entries: list[str], markup: dict[str, bool] | None = None) -> Iterator[Line]:
    for position, entry in enumerate(entries):
        label = f"  {title if position == 0 else '':<18}"
        for row in textwrap.wrap(entry, 100, break_long_words=False) or [""]:
            yield Line(label + row, markup or {})
            label = " " * 20
