"""Which rows look at which: measured by changing one row and seeing whose gradient moves."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.perturb import shares
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import Schema, Slot
from loss_conformance.cases.transform import other_content
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed

__all__ = ["Coupling", "measure_coupling"]

ROWS: Final = 6
EVEN: Final = Plan("full", "typical", ROWS, 4, 5, 2, 3, 3, "full", "ones", True, 3)
ODD: Final = Plan("full", "typical", ROWS - 1, 4, 5, 2, 3, 3, "full", "ones", True, 3)


class Coupling(StrEnum):
    """How the rows of a batch hang together in a loss."""

    UNKNOWN = "unknown"
    NONE = "no row looks at another"
    PAIRS = "rows 2i and 2i+1 look at each other and at no others"
    HALVES = "rows i and i + B/2 look at each other and at no others"
    ROWS = "rows look at others than their neighbour"
    COUNT = "which rows count changes what the others are divided by, and nothing else of theirs"
    PAIRED_ROWS = "rows look at others than their neighbour, and an odd number of them is refused"

    @property
    def paired(self) -> bool:
        """Whether rows come in pairs."""
        return self in (Coupling.PAIRS, Coupling.HALVES, Coupling.PAIRED_ROWS)

    @property
    def across(self) -> bool:
        """Whether a row looks beyond its pair."""
        return self in (Coupling.ROWS, Coupling.PAIRED_ROWS, Coupling.COUNT)


def measure_coupling(schema: Schema, evaluate: Callable[[Case], Evaluation]) -> Coupling:
    """Return how rows hang together, judged on one ordinary batch of six rows."""
    if not any(slot.row_axis == 0 for slot in schema.slots) or any(slot.role == "pairs" for slot in schema.slots):
        return Coupling.UNKNOWN
    for precision in (torch.float64, torch.float32):  # some take nothing wider than float32
        try:
            case = build(schema, EVEN).cast(precision)
            moved, switched = _influence(case, evaluate, other_content)
            break
        except (LossRaised, Malformed):
            continue
    else:
        return Coupling.UNKNOWN
    position = torch.arange(ROWS)
    same_row = position[:, None] == position
    same_pair = position[:, None] // 2 == position // 2
    across_halves = (position[:, None] - position) % (ROWS // 2) == 0
    if bool((moved & ~same_row).any()) and not bool((moved & ~across_halves).any()):
        return Coupling.HALVES
    if bool((moved & ~same_pair).any()):
        # A step too small to change which rows count moves no other row where they share a divisor alone.
        step = moved if bool((switched & ~same_row).any()) else _influence(case, evaluate, _a_little)[0]
        if not bool((step & ~same_row).any()):
            return Coupling.COUNT
        return Coupling.PAIRED_ROWS if _refuses_odd_rows(schema, evaluate, precision) else Coupling.ROWS
    if bool((moved & ~same_row).any()):
        return Coupling.PAIRS
    return Coupling.PAIRS if _refuses_odd_rows(schema, evaluate, precision) else Coupling.NONE


def _a_little(slot: Slot, tensor: Tensor) -> Tensor:
    return tensor * (1 + 1e-3 * shares(tensor))


def _influence(
    case: Case, evaluate: Callable[[Case], Evaluation], moved_to: Callable[[Slot, Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return two [rows, rows] bool matrices: the gradient of row i moves with row j; an entry of it turns on or off."""
    base = evaluate(case)
    moved, switched = torch.zeros(2, ROWS, ROWS, dtype=torch.bool)
    for row in range(ROWS):
        changed = {}
        for slot in case.slots():
            tensor = case.tensor(slot)
            if slot.row_axis == 0 and slot.movable:
                changed[slot.key] = tensor.clone()
                changed[slot.key][row] = moved_to(slot, tensor)[row]
        other = evaluate(case.with_tensors(changed))
        for slot in case.slots():
            if slot.row_axis == 0 and slot.key in base.gradients:
                before, after = base.gradients[slot.key], other.gradients[slot.key]
                # Far above rounding in either precision, far below any real dependence.
                difference = (after - before).abs() > 1e-5 * (before.abs().amax() + after.abs().amax())
                moved[:, row] |= difference.reshape(ROWS, -1).any(1)
                switched[:, row] |= ((before == 0) != (after == 0)).reshape(ROWS, -1).any(1)
    return moved, switched


def _refuses_odd_rows(schema: Schema, evaluate: Callable[[Case], Evaluation], precision: torch.dtype) -> bool:
    try:
        evaluate(build(schema, ODD).cast(precision))
    except (LossRaised, Malformed):
        return True
    return False
