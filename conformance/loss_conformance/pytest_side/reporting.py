"""The side that reports: the only process, or the controller of pytest-xdist workers."""

from __future__ import annotations

from typing import Any

import pytest

from loss_conformance.pytest_side.collecting import Collecting
from loss_conformance.pytest_side.request import Request
from loss_conformance.pytest_side.worker import KEY
from loss_conformance.report.files import write_reports
from loss_conformance.report.record import Notes, Record
from loss_conformance.report.run import Run
from loss_conformance.report.summary import summary_lines
from loss_conformance.verdict import Status

__all__ = ["Reporting"]


class Reporting:
    """Gathers what the items say, decides whether the run tested anything, prints the summary, writes the reports."""

    def __init__(self, request: Request, collecting: Collecting) -> None:
        self.request = request
        self.collecting = collecting
        self.run = Run(request.targets)
        self.usage_errors: list[str] = []

    def pytest_report_header(self) -> list[str]:
        """Say what is checked before anything heavy is imported."""
        options = self.request.options
        names = ", ".join(self.request.targets)
        lines = [f"loss-conformance: {names} (profile {options.profile}, seed {options.seed})"]
        return [*lines, *(f"note: {target} was given more than once and runs once" for target in self.request.repeated)]

    def pytest_report_collectionfinish(self, config: pytest.Config) -> list[str]:
        """Say what was found, once it is loaded."""
        if config.get_verbosity() < 0:
            return []
        return [line for target in self.collecting.targets for line in target.header()]

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Show advice as a passing result of its own kind."""
        record = getattr(report, KEY, None)
        if record and report.when == "call" and report.passed and record["status"] == Status.ADVICE:
            return "advice", "a", ("ADVICE", {"yellow": True})
        return None

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take the record from a report, whichever process made it."""
        record = getattr(report, KEY, None)
        if record is not None:
            self.run.add(Record(**record))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take what a worker sent at its end."""
        sent = getattr(node, "workeroutput", {}).get(KEY)
        if sent is None:
            return
        if sent["usage_error"] and sent["usage_error"] not in self.usage_errors:
            self.usage_errors.append(sent["usage_error"])
        for target, notes in sent["notes"].items():
            self.run.note(target, Notes.read(notes))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a run that tested nothing red, and write the reports."""
        for target in self.collecting.targets:
            self.run.note(target.target, target.notes())
        if self.usage_errors:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif session.exitstatus == pytest.ExitCode.OK and self.run.problems():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.request.options.report and self.run.records:
            write_reports(self.run, self.request.options)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the denominators, and what else a reader of the run must know."""
        for error in self.usage_errors:
            terminalreporter.write_line(f"ERROR: {error}", red=True)
        if not self.run.records:
            return
        brief = terminalreporter.verbosity < 0
        terminalreporter.section("loss conformance", blue=True)
        for line in summary_lines(self.run, brief=brief, with_header=not self.collecting.targets):
            terminalreporter.write_line(line.text, **line.markup)
