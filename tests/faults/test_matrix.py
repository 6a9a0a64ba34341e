"""The committed kill matrix is that of these faults and checks. Computing all of it takes minutes, so only what the named
groups say of every twenty-fourth fault is run again here; ``python -m tests.faults.matrix`` writes the page anew."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from loss_conformance.checks.registry import every_check
from loss_conformance.verdict import Status
from tests.faults.every import FAULTS
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.judging import WRONG, judge
from tests.faults.matrix import PAGE, cells_of, in_order, sentence

TEXT = PAGE.read_text(encoding="utf-8")
CELLS = cells_of(TEXT)
GROUPS = {check.name: check.group for check in every_check()}
STALE = "run: python -m tests.faults.matrix"


def _named(cell: str, fault: Fault) -> list[str]:
    return [name for name in re.findall(r"`(\w+)`", cell) if GROUPS.get(name) in fault.groups]


def _declared(fault: Fault) -> str:
    found, advised = CELLS[fault.id][3:5]
    return FAILED if _named(found, fault) else ADVICE if _named(advised, fault) else UNSEEN


def test_there_is_a_row_for_each_fault_with_its_text() -> None:
    wanted = [(f.id, f.what.replace("|", "\\|"), f.citation) for f in in_order()]
    assert [cells[:3] for cells in CELLS.values()] == wanted, STALE


def test_every_check_it_names_is_registered() -> None:
    assert set(re.findall(r"`(\w+)`", "".join("".join(cells[3:]) for cells in CELLS.values()))) <= set(GROUPS), STALE


def test_the_figures_are_those_of_the_table() -> None:
    declared = Counter(_declared(fault) for fault in FAULTS.values())
    assert sentence(declared, Counter(fault.bare for fault in FAULTS.values())) in TEXT, STALE


@pytest.mark.parametrize("fault", list(FAULTS.values())[::30], ids=str)
def test_row_says_what_the_named_groups_say(fault: Fault) -> None:
    found, advised = CELLS[fault.id][3:5]
    judged = judge(fault.id, WRONG, True)
    verdicts = [judged.verdict(check.name) for check in judged.engine.checks() if check.group in fault.groups]
    for status, cell in ((Status.FAILED, found), (Status.ADVICE, advised)):
        # Of several checks that tell a mistake, one on the edge of its tolerance may say so on one machine alone.
        now = {v.check for v in verdicts if v.status is status}
        assert bool(now) == bool(_named(cell, fault)), STALE
        assert not now or now & set(_named(cell, fault)), STALE
