"""The collector of one loss: its node id is the target as it was typed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from loss_conformance.pytest_side.items import LossCheck, LossItem, UnfeedableLoss
from loss_conformance.report.failing import Showing
from loss_conformance.report.record import Notes
from loss_conformance.run_options import RunOptions

if TYPE_CHECKING:
    from loss_conformance.attempt import Answers
    from loss_conformance.checks.registry import Check
    from loss_conformance.verdict import Verdict

__all__ = ["LossTarget"]


class LossTarget(pytest.Collector):
    """The checks of one loss.

    Attributes:
        engine: what answers; set by ``load``.
        checks: every check of the profile, in running order.
        unfeedable: why the loss cannot be fed, if it cannot.
    """

    engine: Answers
    checks: list[Check]

    def __init__(self, *, target: str, options: RunOptions, alone: bool, **node: Any) -> None:
        super().__init__(name=target, nodeid=target, **node)
        self.target = target
        self.options = options
        self.showing = Showing(target, options, alone)
        self.unfeedable: Exception | None = None
        self._claimed: set[str] = set()
        self._asked = False
        self.add_marker("loss_conformance")

    def load(self) -> None:
        """Load the loss; comes before ``collect``.

        Raises:
            TargetError: it cannot be loaded.
        """
        from loss_conformance.subject.protocol import CannotFeed

        try:
            self.engine = self.options.engine(self.target)
        except CannotFeed as error:
            self.unfeedable = error

    def collect(self) -> Iterable[LossItem]:
        """Return one item for each check of the profile."""
        if self.unfeedable is not None:
            return [UnfeedableLoss.from_parent(self, name="inputs", error=self.unfeedable)]
        self.checks = self.engine.checks()
        return [
            LossCheck.from_parent(self, name=check.name, check=check, showing=self.showing) for check in self.checks
        ]

    def claim(self, cause: str) -> bool:
        """Return whether the failure of ``cause`` has still to be shown: its own item does not run, and nobody claimed it."""
        if any(item.nodeid == f"{self.nodeid}::{cause}" for item in self.session.items) or cause in self._claimed:
            return False
        self._claimed.add(cause)
        return True

    def ask(self, check: str) -> Verdict:
        """Return the engine's verdict.

        Raises:
            CannotFeed: the loss turned out to be unfeedable. Nothing is asked after that; each answer would be the same.
        """
        from loss_conformance.subject.protocol import CannotFeed

        self._asked = True
        try:
            return self.engine.run(check)
        except CannotFeed as error:
            self.unfeedable = error
            raise

    def header(self) -> tuple[str, ...]:
        """Return what was loaded; nothing when it cannot be fed."""
        return tuple(self.engine.header()) if self.unfeedable is None else ()

    def close(self) -> None:
        """Nothing more will be asked."""
        if hasattr(self, "engine"):
            self.engine.close()

    def notes(self) -> Notes:
        """Return what the engine learnt about the loss in this process; nothing when no check ran or could."""
        if not self._asked or self.unfeedable is not None:
            return Notes()
        return Notes(self.header(), tuple(self.engine.facts()), tuple(self.engine.warnings()))
