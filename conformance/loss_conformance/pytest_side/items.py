"""One check as a pytest item."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from loss_conformance.pytest_side.failures import LawBroken, failure_text
from loss_conformance.pytest_side.representation import TerminalRepr, represent
from loss_conformance.report.failing import Showing
from loss_conformance.report.record import Record
from loss_conformance.root_cause import root_cause
from loss_conformance.verdict import Status, Verdict

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check
    from loss_conformance.pytest_side.target import LossTarget

__all__ = ["LossCheck", "LossItem", "UnfeedableLoss"]


class LossItem(pytest.Item):
    """An item of a target. The runner's own frames are never shown.

    Attributes:
        record: how it ended; set when it has run.
    """

    record: Record | None = None

    @property
    def target(self) -> LossTarget:
        """The target it belongs to."""
        parent: Any = self.parent
        return parent  # type: ignore[no-any-return]

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> str | TerminalRepr:
        """Return the failure block."""
        if self.config.getoption("fulltrace", False):
            return super().repr_failure(excinfo, style)
        block, summary = failure_text(self.nodeid, excinfo.value)
        return represent(block, summary, self.target.target)

    def reportinfo(self) -> tuple[os.PathLike[str] | str, int | None, str]:
        """Return the heading of a failure; pytest would turn the dots of a longer one into colons."""
        return self.path, None, self.name


class UnfeedableLoss(LossItem):
    """Stands for all the checks of a loss that nothing can be fed to; always fails."""

    def __init__(self, *, error: Exception, **node: Any) -> None:
        super().__init__(**node)
        self.error = error

    def runtest(self) -> None:
        """Say what was tried."""
        self.record = Record.of_error(self.target.target, self.name, failure_text(self.nodeid, self.error)[0])
        raise self.error


class LossCheck(LossItem):
    """One check of one loss."""

    def __init__(self, *, check: Check, showing: Showing, **node: Any) -> None:
        super().__init__(**node)
        self.check = check
        self.showing = showing
        self.extra_keyword_matches.add(check.group)

    def runtest(self) -> None:
        """Ask the engine, and tell pytest in its own terms."""
        with _one_thread_in_a_worker(self.config):
            verdict = self._verdict()
            block = self.showing.block(self.check, verdict)
            unseen = self._unseen_cause(verdict)
        self._remember(verdict, block)
        self._conclude(verdict, block, unseen)

    def _verdict(self) -> Verdict:
        if self.target.unfeedable is not None:
            pytest.skip("the loss cannot be fed")
        try:
            return self.target.ask(self.name)
        except Exception as error:
            self.record = Record.of_error(self.target.target, self.name, failure_text(self.nodeid, error)[0])
            raise

    def _unseen_cause(self, verdict: Verdict) -> str:
        # A blocked check is skipped because its cause fails in the same run. Where -k or --deselect left the cause
        # out, nothing else would fail, so the first blocked check shows it.
        if verdict.status is not Status.BLOCKED:
            return ""
        cause = root_cause(self.target.engine, self.check)
        if cause is None or not self.target.claim(cause[0].name):
            return ""
        return f"{self.nodeid} BLOCKED by {cause[0].name}\n\n{self.showing.block(*cause)}"

    def _remember(self, verdict: Verdict, block: str) -> None:
        self.record = Record.of(self.target.target, self.check, verdict, block=block, out_of=len(self.target.checks))
        self.user_properties += self.record.properties()

    def _conclude(self, verdict: Verdict, block: str, unseen: str) -> None:
        if unseen:
            raise LawBroken(unseen, verdict.reason)
        if verdict.status is Status.EXPECTED_FAILURE:
            pytest.xfail(verdict.reason)  # with --runxfail this returns, and the check fails like any other
        if verdict.status in (Status.NOT_APPLICABLE, Status.BLOCKED):
            aside = verdict.status is Status.NOT_APPLICABLE
            pytest.skip(f"not applicable: {verdict.reason}" if aside else verdict.reason)
        advice_passes = verdict.status is Status.ADVICE and not self.target.options.strict
        if verdict.status is not Status.PASSED and not advice_passes:
            raise LawBroken(block, verdict.failure.law if verdict.failure else verdict.reason)


@contextlib.contextmanager
def _one_thread_in_a_worker(config: pytest.Config) -> Iterator[None]:
    # Each worker would otherwise start as many threads as there are cores.
    if not hasattr(config, "workerinput"):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
