"""Flat ground: a loss that lies between its bounds still has somewhere to go."""

from __future__ import annotations

from math import isinf

import torch

from loss_conformance.cases.case import Case
from loss_conformance.cases.transform import group_size, take_rows
from loss_conformance.checks.conditions import no_rows
from loss_conformance.checks.registry import Severity, check
from loss_conformance.report.numbers import number
from loss_conformance.trial import Broken, NotExercised, Trial

__all__ = ["flat_between_bounds"]


@check(
    group="gradient_flow",
    statement="Where a bounded loss is at neither of its bounds, a row alone has a gradient.",
    over=("typical", "full", "one_row"),
    severity=Severity.ADVICE,
    why="On flat ground nothing pulls the model back, and the loss looks as if it had converged.",
    cause="a clamp before a division or a shift, where it belongs after it.",
    fix="Clamp the finished term to its bounds, or declare the bounds it really has.",
    seen_in="kornia/kornia@e3981b63e",
    applies=lambda trial: _both_bounds(trial),
)
def flat_between_bounds(trial: Trial) -> None:
    low, high = trial.facts.contract.lower_bound, trial.facts.contract.upper_bound
    assert low is not None
    assert high is not None
    parts = _parts(trial)
    if not parts:
        raise NotExercised("no row is trained on in this case")
    for where, part in parts:
        got = trial.evaluate(part)
        bound = trial.value_tolerance(got).bound
        steep = any(bool((g != 0).any()) for g in (*got.gradients.values(), *got.parameters.values()))
        if not steep and low + bound < float(got.value) < high - bound:
            raise Broken(
                f"L = {number(got.value)} and no gradient at all on {where}",
                f"a gradient between the bounds {number(low)} and {number(high)}",
            )


def _parts(trial: Trial) -> list[tuple[str, Case]]:
    """Return the trained rows one by one, where rows can be dealt out, else the whole batch.

    A pair only where both its answers are: beside an empty answer some losses of pairs are level.
    """
    case, size = trial.case, group_size(trial.case)
    if no_rows(trial) is not None:
        return [("this batch", case)]
    whole = (case.weight.sum(1) > 0).reshape(-1, size).all(1)
    starts = [group * size for group in whole.nonzero().flatten().tolist()]
    return [(f"row {start} alone", take_rows(case, torch.arange(start, start + size))) for start in starts]


def _both_bounds(trial: Trial) -> str | None:
    promised = all(trial.facts.promised(fact) for fact in ("lower_bound", "upper_bound"))
    bounds = trial.facts.contract.lower_bound, trial.facts.contract.upper_bound
    if not promised or any(bound is None or isinf(bound) for bound in bounds):
        return "it promises no finite bounds on both sides"
    return None
