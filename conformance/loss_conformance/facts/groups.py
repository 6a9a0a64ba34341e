"""How many neighbouring rows belong together, where the loss says so by a setting or by the batches it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import torch

from loss_conformance.cases.build import build
from loss_conformance.cases.case import Case
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.slot import ARGUMENT, Schema
from loss_conformance.cases.transform import other_content
from loss_conformance.evaluation import Evaluation, LossRaised, Malformed
from loss_conformance.subject.own_groups import names_a_group

__all__ = ["measure_group"]

FEW: Final = range(5, 9)
"""Numbers of rows of which one at least is a multiple of each size up to 8."""


def measure_group(
    schema: Schema, evaluate: Callable[[Case], Evaluation], settings: Mapping[str, Any]
) -> tuple[int, str] | None:
    """Return (rows of a group, why) where a setting names it and the loss keeps to it, or it takes only whole groups.

    Pairs are left to the measurement of coupling.
    """
    if not any(slot.row_axis == 0 for slot in schema.slots) or any(slot.role == "pairs" for slot in schema.slots):
        return None
    schema = replace(schema, group=1)
    for name, size in settings.items():
        if names_a_group(name, size) and (_refuses(schema, evaluate, size) or _stays_within(schema, evaluate, size)):
            return size, f"{name} = {size}, and rows of one group are compared"
    if all(slot.place == ARGUMENT for slot in schema.slots):
        return None  # what it refuses may be the content of a batch: nothing says that rows are answers to a prompt
    if all(_taken(schema, evaluate, rows) for rows in FEW[-2:]):
        return None  # as most do
    taken = [rows for rows in FEW if _taken(schema, evaluate, rows)]
    sizes = [size for size in range(3, FEW[-1] + 1) if taken and taken == [n for n in FEW if n % size == 0]]
    if sizes and _taken(schema, evaluate, 2 * sizes[0]):
        return sizes[0], f"measured: it takes rows in multiples of {sizes[0]} alone"
    return None


def _refuses(schema: Schema, evaluate: Callable[[Case], Evaluation], size: int) -> bool:
    whole = _taken(schema, evaluate, size) and _taken(schema, evaluate, 2 * size)
    return whole and not _taken(schema, evaluate, 2 * size - 1)


def _stays_within(schema: Schema, evaluate: Callable[[Case], Evaluation], size: int) -> bool:
    """Return whether a row that changes moves another of its own group, and none of the next one."""
    case = _drawn(schema, 2 * size)
    changed = {}
    for slot in case.slots():
        if slot.row_axis == 0 and slot.movable:
            changed[slot.key] = case.tensor(slot).clone()
            changed[slot.key][0] = other_content(slot, case.tensor(slot))[0]
    try:
        base, got = evaluate(case), evaluate(case.with_tensors(changed))
    except (LossRaised, Malformed):
        return False
    moved = torch.zeros(2 * size, dtype=torch.bool)
    for slot in case.slots():
        if slot.row_axis == 0 and slot.key in base.gradients:
            before, after = base.gradients[slot.key], got.gradients[slot.key]
            far = (after - before).abs() > 1e-5 * (before.abs().amax() + after.abs().amax())
            moved |= far.reshape(2 * size, -1).any(1)
    return bool(moved[1:size].any()) and not bool(moved[size:].any())


def _taken(schema: Schema, evaluate: Callable[[Case], Evaluation], rows: int) -> bool:
    try:
        evaluate(_drawn(schema, rows))
    except (LossRaised, Malformed):
        return False
    return True


def _drawn(schema: Schema, rows: int) -> Case:
    # float32, which every loss takes.
    return build(schema, Plan("full", "typical", rows, 4, 5, 2, 3, 3, "full", "ones", True, 3)).cast(torch.float32)
