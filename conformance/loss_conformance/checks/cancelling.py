"""Errors of opposite sign: they add up, whether two predictions make them or two rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.label_values import BINARY
from loss_conformance.cases.slot import Slot
from loss_conformance.checks.conditions import declared_only, unless
from loss_conformance.checks.registry import check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["errors_do_not_cancel"]

FAMILIES: Final = (None, "value", "supervised", "reward")
ERROR: Final = 0.5
UP, DOWN, NONE = torch.tensor(1.0), torch.tensor(-1.0), torch.tensor(0.0)


@check(
    group="positivity",
    statement="Predictions above and below their targets by the same amount cost more than predictions that meet them.",
    over=("typical", "full"),
    why="Where errors cancel, half of the predictions may drift up as far as the others drift down, at no loss at all.",
    cause="errors added up, or averaged, before they are squared.",
    fix="((q1 - y)**2 + (q2 - y)**2).mean(): every error squared on its own.",
    seen_in="ray-project/ray#10653",
    applies=lambda trial: unless("stochastic", "stateful")(trial) or _unless_meets(trial),
    most_cases=1,
)
def errors_do_not_cancel(trial: Trial) -> None:
    predictions, target = _compared(trial.case)
    met = trial.evaluate(_off(trial.case, predictions, target, [NONE] * len(predictions)))
    bound = 2 * trial.value_tolerance(met).bound
    for signs in (*_alone(len(predictions)), *_rows_alone(trial.case, len(predictions), target)):
        if not float(trial.evaluate(_off(trial.case, predictions, target, signs)).value - met.value) > 4 * bound:
            raise NotExercised("L is not lowest where each of them meets the target")
    for who, signs in _opposite(trial.case, predictions, target):
        apart = trial.evaluate(_off(trial.case, predictions, target, signs))
        if float(apart.value - met.value) <= 4 * bound:
            raise Broken(
                f"{number(apart.value)}, and {number(met.value)} where every target is met",
                "more than where every target is met",
                changed=f"{who} off by +{ERROR:g} and -{ERROR:g} in turn",
                tolerance=f"{4 * bound:.1e}",
                **declared_only(trial, "family", doubtful=trial.facts.contract.family is None),
            )


def _unless_meets(trial: Trial) -> str | None:
    if trial.facts.contract.family not in FAMILIES:
        return f"family = {trial.facts.contract.family!r}"
    try:
        _compared(trial.case)
    except NotExercised as missing:
        return str(missing)
    return None


def _compared(case: Case) -> tuple[list[Slot], Slot]:
    """Return what is predicted, and the one constant of its shape it is to meet."""
    predictions = [s for s in case.slots() if s.trainable and s.role == "values" and not s.limited]
    constants = [s for s in case.slots() if s.role == "values" and not s.trainable and s.kind != BINARY]
    if not predictions or len(constants) != 1 or any(s.shape != constants[0].shape for s in predictions):
        raise NotExercised("it predicts no values beside a target of their shape")
    return predictions, constants[0]


def _opposite(case: Case, predictions: list[Slot], target: Slot) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield who is off in which direction: one prediction against the other, and one row against the next."""
    if len(predictions) == 2:
        yield " and ".join(slot.key for slot in predictions), [UP, DOWN]
    rows = len(case.tensor(target)) if target.row_axis == 0 else 0
    active = [bool(row.any()) for row in case.active(target)] if rows else []
    if rows > 1 and rows % 2 == 0 and all(active):
        signs = torch.tensor([1.0, -1.0]).repeat(rows // 2).reshape(-1, *[1] * (len(target.shape) - 1))
        yield f"rows of {' and '.join(slot.key for slot in predictions)}", [signs] * len(predictions)


def _rows_alone(case: Case, predictions: int, target: Slot) -> Iterator[list[Tensor]]:
    """Yield the directions in which one row is off in all predictions, up and down, and the others are not."""
    rows = len(case.tensor(target)) if target.row_axis == 0 else 0
    for row in torch.eye(rows):
        one = row.reshape(-1, *[1] * (len(target.shape) - 1))
        yield from ([one] * predictions, [-one] * predictions)


def _alone(predictions: int) -> Iterator[list[Tensor]]:
    """Yield the directions in which one prediction is off in all its rows, up and down, and the others are not."""
    for which in range(predictions):
        for sign in (UP, DOWN):
            yield [sign if i == which else NONE for i in range(predictions)]


def _off(case: Case, predictions: list[Slot], target: Slot, signs: list[Tensor]) -> Case:
    wanted = case.tensor(target)
    moved = {s.key: wanted + ERROR * sign.to(wanted) for s, sign in zip(predictions, signs, strict=True)}
    return case.with_tensors(moved)
