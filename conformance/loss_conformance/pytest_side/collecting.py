"""Collection: the checks of every target, as items like any other."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from loss_conformance.pytest_side.items import LossItem
from loss_conformance.pytest_side.request import Request
from loss_conformance.pytest_side.target import LossTarget

__all__ = ["Collecting"]


class Collecting:
    """Adds the items, and hangs their records on the reports.

    Attributes:
        targets: the collectors, once collected.
        usage_error: why a worker has no items.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.targets: list[LossTarget] = []
        self.usage_error = ""

    # First, because -k, -m, --deselect and --lf select in the same hook.
    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Collect every target. When one does not exist, nothing runs."""
        from loss_conformance.extensions import BrokenExtension
        from loss_conformance.subject.subject import TargetError

        try:
            self.targets = list(self._loaded(session))
        except (TargetError, BrokenExtension) as error:
            self._refuse(error)
            items.clear()
            return
        for target in self.targets:
            items.extend(session.genitems(target))
        session.testscollected = len(items)

    def _loaded(self, session: pytest.Session) -> Iterator[LossTarget]:
        alone = len(self.request.targets) == 1
        for name in self.request.targets:
            target: LossTarget = LossTarget.from_parent(session, target=name, options=self.request.options, alone=alone)
            target.load()
            yield target

    def pytest_unconfigure(self) -> None:
        """End what still waits for questions."""
        for target in self.targets:
            target.close()

    def _refuse(self, error: Exception) -> None:
        traceback = getattr(error, "traceback", "")
        self.usage_error = f"{error}\n{traceback}" if traceback else str(error)
        # Raised in a worker it would reach the user as an internal error; the controller raises it there.
        if not self.request.is_worker:
            raise pytest.UsageError(self.usage_error)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Hang the record on the report, and say of a skip what was skipped rather than where in this package."""
        report = yield
        if isinstance(item, LossItem) and call.when == "call" and item.record is not None:
            report.loss_conformance = item.record.plain()  # type: ignore[attr-defined]
            if report.skipped and isinstance(report.longrepr, tuple):
                report.longrepr = (item.target.target, None, report.longrepr[2])  # type: ignore[assignment]
        return report
