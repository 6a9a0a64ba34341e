"""One target from loading to records, without pytest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from loss_conformance.checks.registry import select_checks
from loss_conformance.report.failing import Showing
from loss_conformance.report.record import Notes, Record
from loss_conformance.report.run import Run
from loss_conformance.root_cause import root_cause
from loss_conformance.run_options import RunOptions
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.verdict import Status

if TYPE_CHECKING:
    from loss_conformance.attempt import Answers
    from loss_conformance.checks.registry import Check

__all__ = ["run_target"]


def run_target(run: Run, target: str, options: RunOptions, only: Iterable[str] = (), *, alone: bool = True) -> None:
    """Run the checks of ``target`` and add what they say to ``run``.

    Args:
        only: names of checks and groups; none means all.
        alone: no other target is checked beside this one.

    Raises:
        TargetError: the target cannot be loaded.
        ValueError: ``only`` names neither a check nor a group.
    """
    selected = {check.name for check in select_checks(only)}
    try:
        engine = options.engine(target)
        _run_checks(run, engine, selected, Showing(target, options, alone))
        run.note(target, Notes(tuple(engine.header()), tuple(engine.facts()), tuple(engine.warnings())))
        engine.close()
    except CannotFeed as error:
        said = "\n".join(part for part in (str(error), error.traceback) if part)
        run.add(Record.of_error(target, "inputs", f"{target}::inputs ERROR\n{said}"))


def _run_checks(run: Run, engine: Answers, selected: set[str], showing: Showing) -> None:
    checks = engine.checks()
    asked = [check for check in checks if check.name in selected]
    for check in [*_causes_left_out(engine, asked), *asked]:
        verdict = engine.run(check.name)
        block = showing.block(check, verdict)
        run.add(Record.of(showing.target, check, verdict, block=block, out_of=len(checks)))


def _causes_left_out(engine: Answers, asked: list[Check]) -> list[Check]:
    # A selection may leave out the one check whose failure blocks all the others.
    blocked = [check for check in asked if engine.run(check.name).status is Status.BLOCKED]
    causes = [cause[0] for check in blocked if (cause := root_cause(engine, check)) is not None]
    return [check for check in dict.fromkeys(causes) if check not in asked]
