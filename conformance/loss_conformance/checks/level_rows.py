"""Level rows: pictures without contrast and signals that stand still, where a variance is 0 and its rounding is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.finite import first_nonfinite
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["level_rows"]

LEVEL: Final = 100.1
STEP: Final = 0.37
"""Each row lies higher than the one before by this share: what one level rounds up, another rounds down."""


@check(
    group="finite",
    statement="Where every row is one number throughout, far from 0, float32 gives a finite L if float64 does.",
    over=("typical",),
    why="A black picture, a silent second or a constant target is in every dataset; there the rounding of a variance shows.",
    cause="a variance as the mean of squares less the square of the mean: below 0 by rounding, and then a root of it.",
    fix="((x - x.mean()) ** 2).mean(), or clamp(min=0) before the root.",
    seen_in="Project-MONAI/MONAI#1868",
    requires=("scalar_output", "finite_value"),
    most_cases=1,
)
def level_rows(trial: Trial) -> None:
    if trial.bench.dtype is not torch.float64:
        raise NotExercised("the loss takes no float64 inputs")
    tried = False
    for name, case in _levelled(trial.case):
        exact = trial.evaluate(case, dtype=torch.float64)
        if not bool(torch.isfinite(exact.value)) or first_nonfinite(exact):
            continue
        tried = True
        got = trial.evaluate(case, dtype=torch.float32)
        lost = first_nonfinite(got) if bool(torch.isfinite(got.value)) else f"loss = {number(got.value)}"
        if lost:
            raise Broken(
                lost,
                f"finite: float64 gives a loss of {number(exact.value)}",
                changed=f"each row of {name} one number",
                guessed=trial.foreign and trial.facts.contract.family is None,
            )
    if not tried:
        raise NotExercised("it takes no rows of numbers, or gives nothing finite on level ones")


def _levelled(case: Case) -> Iterator[tuple[str, Case]]:
    for slot in case.slots():
        if _of_numbers(slot):
            tensor = case.tensor(slot)
            rows = torch.arange(len(tensor), dtype=torch.float64).reshape(-1, *[1] * (tensor.dim() - 1))
            # The same number in both precisions.
            level = (LEVEL * (1 + STEP * rows)).to(torch.float32).to(tensor)
            yield slot.key, case.with_tensors({slot.key: level.expand(tensor.shape).clone()})


def _of_numbers(slot: Slot) -> bool:
    plain = slot.role in ("values", "embeddings") and not slot.limited and not slot.integer
    return plain and slot.row_axis == 0 and len(slot.shape) > 1
