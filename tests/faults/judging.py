"""What the suite says about a loss: each verdict once per process, without shrinking, which changes no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from unittest.mock import patch

import loss_conformance.engine as engine_module
from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Status, Verdict
from tests.faults.every import FAULTS
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault

# The plans follow from the seed alone; drawing them is a third of a run.
same_pool = cache(engine_module.draw_pool)

WRONG, RIGHT = "wrong", "right"


class Judge:
    """The suite on one loss with the contract of its fault or with none."""

    def __init__(self, loss, contract, profile):
        self.engine = Engine(load_subject(loss, contract=contract), profile=profile)
        with patch.object(engine_module, "draw_pool", same_pool):
            _ = self.engine.pool

    def verdict(self, check: str) -> Verdict:
        with patch.object(engine_module, "smallest_plan", lambda plan, *_: (plan, 0)):
            return self.engine.run(check)

    def verdicts(self, first: tuple[str, ...] = ()) -> Iterator[Verdict]:
        """Yield every verdict, those of the groups ``first`` first."""
        for check in sorted(self.engine.checks(), key=lambda check: check.group not in first):
            yield self.verdict(check.name)


@cache
def judge(fault_id: str, form: str, declared: bool) -> Judge:
    fault = FAULTS[fault_id]
    return _judge(getattr(fault, form), repr(fault.contract) if declared else "", fault_id)


_known: dict[tuple, Judge] = {}


def _judge(loss, contract: str, fault_id: str) -> Judge:
    # Many faults share a right form; a contract is known by what it says.
    fault = FAULTS[fault_id]
    key = loss, contract, fault.profile
    if key not in _known:
        _known[key] = Judge(loss, fault.contract if contract else None, fault.profile)
    return _known[key]


def sight(fault: Fault, declared: bool, enough: str = FAILED) -> str:
    """Return how the wrong form is told: ``"failed"``, ``"advice"`` or ``"unseen"``.

    With the contract only the groups of the fault count, without it any failure does. Once it is told as clearly as is
    ``enough``, no further check is asked.
    """
    advised = False
    for verdict in judge(fault.id, WRONG, declared).verdicts(fault.groups):
        named = verdict.group in fault.groups
        if verdict.status is Status.FAILED and (named or not declared):
            return FAILED
        advised |= named and verdict.status is Status.ADVICE
        if (declared and not named) or (advised and enough == ADVICE):
            break
    return ADVICE if advised else UNSEEN


def alarms(judge: Judge) -> list[str]:
    """Return what a correct loss is blamed for."""
    return [
        f"{verdict.check}: {verdict.failure.got if verdict.failure else verdict.reason}"
        for verdict in judge.verdicts()
        if verdict.status in (Status.FAILED, Status.BLOCKED)
    ]
