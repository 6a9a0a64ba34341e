"""Where a setting acts that changes nothing on the cases at hand: on other cases, and next to the threshold it may be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import Any, Final

import torch
from torch import Tensor

from loss_conformance.cases.case import Case
from loss_conformance.cases.token_grid import on_policy
from loss_conformance.checks.other_settings import rebuilt_with_each
from loss_conformance.evaluation import LossRaised, Malformed
from loss_conformance.trial import Trial

__all__ = ["VARIED", "acts_elsewhere"]

VARIED: Final = ("off_policy", "typical")
"""Situations to vary settings in: clips and clamps only act far off policy."""

_WIDER: Final = 8.0
_HALF: Final = 0.5
_CASES: Final = 4
_HALVINGS: Final = 14
_DOUBLINGS: Final = 6
_STRETCHED: Final = ("values", "rewards", "advantages", "logits", "logprobs", "scalar")
"""Roles of numbers that may well be larger than they are drawn."""


def acts_elsewhere(trial: Trial, name: str, values: list[Any], *, on_the_gradient: bool = False) -> bool:
    """Return whether a setting moves the loss, or its gradient, on cases this run does not hold.

    All counts of its own may have been those of one batch; all numbers it bounds may have lain beyond a bound, which a
    range of a thousandth about the old policy is, and a margin that no score has reached.
    """
    losses = [loss for _, loss in rebuilt_with_each(trial, name, values)]
    further = [case for case, _ in trial.bench.further_cases((*VARIED, "absent_rows"))]
    if _moves_on(trial, losses, further, on_the_gradient):
        return True
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return False
    cases = [trial.case, *further[:_CASES]]
    return _moves_on(trial, losses, _widened(trial.case), on_the_gradient) or any(
        _moves_on(trial, losses, _next_to_thresholds(case), on_the_gradient) for case in cases
    )


def _moves_on(trial: Trial, losses: list[Any], cases: Iterable[Case], on_the_gradient: bool) -> bool:
    for case in cases:
        try:
            answers = [trial.evaluate(case, loss=loss) for loss in losses]
        except (Malformed, LossRaised, ValueError, TypeError, AssertionError):
            continue
        moved = [trial.moves(one, other) for one, other in combinations(answers, 2)]
        if any(gradient or (value and not on_the_gradient) for value, gradient in moved):
            return True
    return False


def _widened(case: Case) -> list[Case]:
    """Return the case with its real constants stretched, as they are and as far as they go above 0, and lesser shares 0."""
    wide: list[dict[str, Tensor]] = [{}, {}, {}]
    for slot in case.slots():
        if slot.role == "probabilities" and not slot.trainable and slot.shape[-1:] != ("V",):
            wide[2][slot.key] = torch.where(case.tensor(slot) < _HALF, 0.0, case.tensor(slot))
        if slot.trainable or slot.integer or slot.signs or slot.role not in _STRETCHED or slot.high is not None:
            continue
        stretched = _WIDER * case.tensor(slot)
        wide[0][slot.key] = stretched if slot.low is None else stretched.abs()
        wide[1][slot.key] = -stretched.abs() if slot.role == "logprobs" else stretched.abs()
    return [case.with_tensors(tensors) for tensors in wide if tensors]


def _next_to_thresholds(case: Case) -> Iterator[Case]:
    """Yield the case with constants ever nearer to what is trained, then with what is trained ever larger.

    By factors of 2, so that of two thresholds a factor of 2 apart something comes to lie between.
    """
    goals = _goals(case)
    for halving in range(1, _HALVINGS + 1) if goals else ():
        part = 1.0 - 2.0**-halving
        yield case.with_tensors({key: _towards(goal, case.tensors[key], part) for key, goal in goals.items()})
    large = {slot.key: case.tensor(slot) for slot in case.slots() if slot.trainable and slot.role in _STRETCHED}
    for doubling in range(1, _DOUBLINGS + 1) if large else ():
        yield case.with_tensors({key: tensor * 2.0**doubling for key, tensor in large.items()})


def _goals(case: Case) -> dict[str, Tensor]:
    """Return what each real constant would be if it equalled what is trained, for those that stand beside it."""
    old = on_policy(case) or case
    goals = {key: old.tensors[key] for key, tensor in case.tensors.items() if old.tensors[key] is not tensor}
    for slot in case.slots():
        if slot.trainable or not slot.movable or slot.key in goals or slot.role not in _STRETCHED:
            continue
        beside = [
            each for each in case.slots() if each.trainable and (each.role, each.shape) == (slot.role, slot.shape)
        ]
        if beside:
            goals[slot.key] = case.tensor(beside[0])
    return goals


def _towards(goal: Tensor, x: Tensor, part: float) -> Tensor:
    return torch.where(torch.isfinite(goal) & torch.isfinite(x), torch.lerp(x, goal, part), x)
