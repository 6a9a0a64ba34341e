"""Every planted fault is seen by the group it names, and its right form is not blamed; with the contract and without."""

from __future__ import annotations

import pytest

from tests.faults.every import FAULTS
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.judging import RIGHT, alarms, judge, sight
from tests.faults.not_expressed import NOT_EXPRESSED


def _each():
    return [pytest.param(fault, id=fault.id) for fault in FAULTS.values()]


@pytest.mark.parametrize("fault", _each())
def test_wrong_form_fails_the_named_group(fault: Fault):
    seen = sight(fault, declared=True)
    assert seen in ((ADVICE, FAILED) if fault.advice else (FAILED,)), f"{fault.what}: {seen}"


@pytest.mark.parametrize("fault", [each for each in _each() if each.values[0].bare != UNSEEN])
def test_wrong_form_without_any_contract(fault: Fault):
    seen = sight(fault, declared=False, enough=fault.bare)
    assert seen == FAILED or seen == fault.bare, f"{fault.what}: {seen}"


def _each_right_form():
    """Every right form once with each of its contracts, and once without: several mistakes share one."""
    forms = {
        (fault.right, fault.profile, repr(fault.contract) if declared else ""): (fault, declared)
        for declared in (True, False)
        for fault in FAULTS.values()
    }
    return [pytest.param(*form, id=f"{form[0].id}-{'declared' if form[1] else 'bare'}") for form in forms.values()]


@pytest.mark.parametrize(("fault", "declared"), _each_right_form())
def test_right_form_is_not_blamed(fault: Fault, declared: bool):
    assert alarms(judge(fault.id, RIGHT, declared)) == []


def test_what_is_not_expressed_is_no_fault():
    assert not set(NOT_EXPRESSED) & set(FAULTS)
