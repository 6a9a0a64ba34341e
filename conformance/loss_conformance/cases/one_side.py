"""One of two sides that are compared, chosen and rejected or student and teacher, moved alone."""

from __future__ import annotations

from typing import Final

import torch

from loss_conformance.cases.case import Case

__all__ = ["SIDES", "one_side_moved"]

SIDES: Final = (("chosen", "rejected"), ("student", "teacher"))
STEP: Final = 0.25


def one_side_moved(case: Case, side: str) -> Case | None:
    """Return the case with other numbers on one side: inputs of its name, or the rows it has in every pair.

    ``None`` where nothing is of that side alone.
    """
    own = [slot for slot in case.slots() if slot.movable and side in slot.name.lower().split("_")]
    if own:
        return case.with_tensors({slot.key: case.tensor(slot) - STEP for slot in own})
    outputs = [slot for slot in case.slots() if slot.movable and slot.trainable and slot.row_axis == 0]
    if not case.schema.paired or side not in SIDES[0] or not outputs:
        return None
    rows = (torch.arange(len(case.rows)) % 2 == SIDES[0].index(side)).to(torch.float64)
    return case.with_tensors(
        {s.key: case.tensor(s) - STEP * rows.reshape(-1, *[1] * (case.tensor(s).dim() - 1)) for s in outputs}
    )
