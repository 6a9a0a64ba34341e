"""Row weights: sample_mask says how often a row counts; it is no switch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import group_size, take_rows
from loss_conformance.checks.conditions import unless
from loss_conformance.checks.registry import Severity, check
from loss_conformance.trial import NotExercised, Trial

__all__ = ["row_weight"]


@check(
    group="reduction",
    statement="A row (pair, group) that stands twice with weight 1/2 each counts as once with weight 1, gradient included.",
    over=("full", "typical", "holes"),
    severity=Severity.ADVICE,
    why="Weights applied twice, or in the sum and not in its divisor, are invisible as long as they are 0 or 1.",
    cause="sample_mask multiplied into the token mask and into the row terms, or weights counted where they should be summed.",
    fix="Multiply every finished row term by its weight once; divide by the sum of the weights, or by the global count.",
    seen_in="",
    applies=lambda trial: (
        unless("coupled", "stochastic")(trial) or (None if _mask(trial.case) else "it reads no weights of rows")
    ),
    requires=("scalar_output", "duplicate_rows"),
    own_batch=True,
)
def row_weight(trial: Trial) -> None:
    trial.compare_in_float32()
    base = trial.finite_base
    size = group_size(trial.case)
    if any(slot.role == "pairs" for slot in trial.case.slots()):
        raise NotExercised("its rows are addressed by index")
    rows = len(trial.case.rows)
    again = torch.cat((torch.arange(rows), torch.arange(rows - size, rows)))
    copies = torch.zeros(len(again), dtype=torch.bool)
    copies[rows - size :] = True
    got = trial.evaluate(_weighted(take_rows(trial.case, again), copies))
    last = torch.arange(rows) >= rows - size
    lighter = trial.evaluate(_weighted(trial.case, last))
    switch = bool((lighter.value - base.value).abs() <= trial.value_tolerance(base).bound)
    change = f"the last {'row' if size == 1 else f'{size} rows'} twice, each with weight 1/2"
    how: dict[str, Any] = {
        "changed": change,
        "cause": "sample_mask is read as a switch: a weight of 1/2 counts as much as one of 1." if switch else "",
    }
    trial.require_value(got, base, **how)
    for slot in trial.case.slots():
        if slot.key not in base.gradients or slot.row_axis is None:
            continue
        merged = got.gradients[slot.key].narrow(slot.row_axis, 0, rows).clone()
        extra = got.gradients[slot.key].narrow(slot.row_axis, rows, size)
        merged.narrow(slot.row_axis, rows - size, size).add_(extra)
        trial.require_gradients({slot.key: merged}, {slot.key: base.gradients[slot.key]}, **how)


def _mask(case: Case) -> str | None:
    for slot in case.slots():
        if slot.kind in ("batch.sample_mask", "rows_mask") and not slot.integer:
            return slot.key
    return None


def _weighted(case: Case, which: torch.Tensor) -> Case:
    """Return the case with half the weight at the rows ``which``."""
    key = _mask(case)
    if key is None:
        raise NotExercised("this case has no weights of rows")
    halved = case.tensors[key] * torch.where(which, 0.5, 1.0).to(case.tensors[key])
    return replace(case.with_tensors({key: halved}), rows=case.rows * torch.where(which, 0.5, 1.0).to(case.rows))
