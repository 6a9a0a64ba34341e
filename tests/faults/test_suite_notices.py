"""The tests of this folder fail when a fault survives, when a right form fails, and when a check finds nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loss_conformance.checks.registry import every_check
from loss_conformance.verdict import Status
from tests.faults import judging, test_every_check_kills, test_faults
from tests.faults.every import FAULTS
from tests.faults.fault import Fault

SEEDED = FAULTS["X41"]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch):
    def plant(**changed: object) -> Fault:
        fault = replace(SEEDED, id="X000", **changed)
        monkeypatch.setitem(FAULTS, fault.id, fault)
        judging.judge.cache_clear()
        return fault

    yield plant
    judging.judge.cache_clear()


def test_a_fault_that_survives(planted) -> None:
    fault = planted(wrong=SEEDED.right)
    with pytest.raises(AssertionError, match="seeds the global generator: unseen"):
        test_faults.test_wrong_form_fails_the_named_group(fault)
    with pytest.raises(AssertionError, match="seeds the global generator"):
        test_faults.test_wrong_form_without_any_contract(fault)


def test_a_right_form_that_fails(planted) -> None:
    fault = planted(right=SEEDED.wrong)
    with pytest.raises(AssertionError, match="global_state_kept"):
        test_faults.test_right_form_is_not_blamed(fault, declared=True)


def test_a_check_nothing_is_known_for() -> None:
    check = replace(every_check()[0], name="finds_nothing")
    with pytest.raises(AssertionError, match="no planted fault is known that finds_nothing catches"):
        test_every_check_kills.test_check_kills(check)


def test_a_check_that_finds_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    check = next(c for c in every_check() if c.name == "global_state_kept")
    found = judging.judge(SEEDED.id, judging.WRONG, True).verdict(check.name)
    assert found.status is Status.FAILED
    monkeypatch.setattr(judging.Judge, "verdict", lambda judge, name: replace(found, status=Status.PASSED))
    with pytest.raises(AssertionError):
        test_every_check_kills.test_check_kills(check)
