"""An engine whose loss runs in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from loss_conformance.apart.process import ChildProcess, Died
from loss_conformance.apart.switch import IN_PROCESS
from loss_conformance.attempt import FIRST_CONTACT, Attempt
from loss_conformance.checks.registry import Check, every_check
from loss_conformance.engine import Engine
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Failure, Status, Verdict

__all__ = ["EngineApart"]

MOST_AT_A_TIME: Final = 4
"""Children kept for the next question; a run may have hundreds of losses."""


class EngineApart:
    """Answers like the engine ``make`` makes, and survives it.

    Args:
        make: makes the engine; called in each child.
        name: the loss as the user wrote it, for what is said when it cannot even be loaded.

    Raises:
        UnfitChild: torch does not work in a child of this process.
        TargetError, CannotFeed, ...: what ``make`` raises.
    """

    def __init__(self, make: Callable[[], Engine], name: str) -> None:
        self._make = make
        self._child: ChildProcess | None = None
        self._verdicts: dict[str, Verdict] = {}
        self._unfeedable: CannotFeed | None = None
        self._hung = False
        self._kept: dict[str, tuple[str, ...]] = {}
        try:
            self.target, self.seed, self._checks, header = self._ask("opened")
        except Died as death:
            raise TargetError(f"{name}: while it was constructed, {death}", death.traceback) from None
        self._kept["header"] = header

    def checks(self) -> list[Check]:
        """Return every check of the profile in running order."""
        return [check for check in every_check() if check.name in self._checks]

    def run(self, name: str) -> Verdict:
        """Return the verdict of one check; that of a check that ended its process is a failure.

        Raises:
            CannotFeed: the loss accepts no inputs we know of, or its process ended on the first call.
        """
        while name not in self._verdicts:
            if self._unfeedable is not None:
                raise self._unfeedable
            try:
                self._verdicts[name] = self._ask("run", name)
            except CannotFeed as reason:
                self._unfeedable = reason
            except Died as death:
                self._bury(death, asked=name)
        return self._verdicts[name]

    def facts(self) -> tuple[str, ...]:
        """Return one line per settled contract fact, with its origin."""
        return self._notes("facts")

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of a green run must know."""
        return self._notes("warnings")

    def header(self) -> tuple[str, ...]:
        """Return what ran on what."""
        return self._kept["header"]

    def close(self) -> None:
        """Nothing more will be asked; should it be after all, another child answers."""
        if self in _in_use:
            _in_use.remove(self)
        if self._child is not None:
            self._child.end()
            self._child = None

    def _ask(self, method: str, *arguments: Any) -> Any:
        child = self._child
        if child is None or child.over:
            child = self._child = ChildProcess(self._make)
            _make_room_for(self)
            if self._verdicts or self._hung:
                child.ask("resume", self._verdicts, self._hung)
        return child.ask(method, *arguments)

    def _notes(self, what: str) -> tuple[str, ...]:
        if self._unfeedable is not None:
            raise self._unfeedable
        if what not in self._kept:
            try:
                self._kept[what] = self._ask(what)
            except Died as death:
                return (f"not known: when asked for {what}, {death}",)
        return self._kept[what]

    def rest(self) -> None:
        """Give the child up, once it said what is asked at the end of a run."""
        for what in ("facts", "warnings") if self._verdicts and self._unfeedable is None else ():
            if self._child is not None and not self._child.over:
                self._notes(what)
        self.close()

    def _bury(self, death: Died, asked: str) -> None:
        self._hung = self._hung or death.hung
        if death.attempt == FIRST_CONTACT:
            self._unfeedable = CannotFeed(f"on its first call {death}\n{_FORK}", death.traceback)
            return
        attempt = death.attempt or Attempt(asked)
        check = next(check for check in every_check() if check.name == attempt.check)
        failure = Failure(
            law=check.statement,
            case=self._described(attempt) if death.attempt else "",
            got=str(death),
            wanted="a loss, or an exception",
            cause=_CAUSE,
            traceback=death.traceback,
            seed=self.seed,
        )
        self._verdicts[check.name] = Verdict(check.name, check.group, Status.FAILED, failure=failure)

    def _described(self, attempt: Attempt) -> str:
        try:
            return str(self._ask("described", attempt))
        except (Died, CannotFeed):
            return ""


_CAUSE: Final = (
    "native code that reads or writes where it must not, os.abort or os._exit, recursion in native code, or memory that "
    "grows with the values."
)

_FORK: Final = f"(the loss runs in a fork of this process; if it is the fork it does not survive, set {IN_PROCESS}=1)"

_in_use: list[EngineApart] = []
# A child has no part in the children of its parent.
os.register_at_fork(after_in_child=_in_use.clear)


def _make_room_for(engine: EngineApart) -> None:
    if engine not in _in_use:
        _in_use.append(engine)
    if len(_in_use) > MOST_AT_A_TIME:
        _in_use.pop(0).rest()
